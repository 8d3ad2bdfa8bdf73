//! Reading and writing postcard values one after the other in a slice.

use serde::{Deserialize, Serialize};

use crate::error::{DecodeError, EncodeError};

pub(crate) struct Writer<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn put<T: Serialize>(&mut self, value: &T) -> Result<(), EncodeError> {
        let free = &mut self.bytes[self.at..];
        let space = free.len();
        let used = postcard::to_slice(value, free).map_err(|_| EncodeError::TooLong { space })?.len();
        self.at += used;
        Ok(())
    }

    pub(crate) fn length(&self) -> usize {
        self.at
    }
}

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
    length: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], message: &'static str) -> Self {
        Self { rest: bytes, message, length: bytes.len() }
    }

    pub(crate) fn take<T: Deserialize<'a>>(&mut self) -> Result<T, DecodeError> {
        let (value, rest) = postcard::take_from_bytes(self.rest)
            .map_err(|_| DecodeError::Malformed { message: self.message, length: self.length })?;
        self.rest = rest;
        Ok(value)
    }

    pub(crate) fn range(&self, field: &'static str, found: u64, allowed: u64) -> DecodeError {
        DecodeError::Range { message: self.message, field, found, allowed }
    }
}
