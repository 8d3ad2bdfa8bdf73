//! Branches and ends.

use super::{Cx, Flow, Trap, TrapKind};
use crate::code::Inst;

/// bra: the lanes whose guard holds jump.
pub fn branch(_: &mut Cx<'_>, _: &Inst, _: u32) -> Result<Flow, Trap> {
    Ok(Flow::Branch)
}

/// ret and exit: device functions are inlined, so both end the thread.
pub fn exit(_: &mut Cx<'_>, _: &Inst, _: u32) -> Result<Flow, Trap> {
    Ok(Flow::Exit)
}

/// trap.
pub fn trap(_: &mut Cx<'_>, _: &Inst, mask: u32) -> Result<Flow, Trap> {
    if mask == 0 {
        return Ok(Flow::Next);
    }
    Err(Box::new(TrapKind::Trap))
}
