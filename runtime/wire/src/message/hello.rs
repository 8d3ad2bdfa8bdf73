//! Hello: who the device is and what it runs. PROTOCOL.md section 7.1.

use heapless::Vec;
use serde::{Deserialize, Serialize};

/// Plans that one Hello names.
pub const PLANS: usize = 4;

/// Who the device is and what it runs; sent at boot, when a plan is loaded, and every few minutes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// The newest message schema that the sender writes; 1 now.
    pub schema: u32,
    /// The device's name for people.
    pub name: &'a str,
    /// The board, as `boards/` calls it.
    pub board: &'a str,
    /// Version of the firmware.
    pub firmware: &'a str,
    /// What the energy figures cover, such as `VDD_IN`; empty where there are none.
    pub rail: &'a str,
    /// The plans loaded.
    pub plans: Vec<Plan, PLANS>,
}

impl Hello<'_> {
    /// The schema that this crate writes.
    pub const SCHEMA: u32 = 1;
}

/// A loaded plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// First 8 bytes of the plan's hash.
    pub hash: [u8; 8],
    /// What its accuracy card says; `None` without a card.
    pub accuracy: Option<Accuracy>,
}

/// An accuracy card's headline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accuracy {
    /// What was measured.
    pub measure: Measure,
    /// The plan's result, in hundredths of a percent.
    pub plan: u16,
    /// The float model's result on the same data, in hundredths of a percent.
    pub reference: u16,
}

/// What an accuracy figure measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Measure {
    /// Share of right first answers.
    Top1,
    /// Mean average precision.
    MeanAveragePrecision,
    /// Area under the receiver operating characteristic.
    AreaUnderCurve,
    /// Something that the card explains.
    Other,
}
