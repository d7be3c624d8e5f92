//! Pages: a list that is too long for one answer comes in several.
//!
//! A page token pins the moment all pages answer for, and belongs to one question.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use prost::Message;
use sha2::{Digest as _, Sha256};

use super::{QueryError, Reader};

/// Versions, or members of a catalogue, that a page goes through, if the question doesn't say.
pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// Most of them.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// Longest page, in bytes, evidence and all: gRPC's clients take 4 MiB unless they are told to take more.
pub const MAX_PAGE_LENGTH: usize = (4 << 20) - (64 << 10);

/// A page that goes through as many as are wanted, or through fewer where those would be too long. One alone is never too long:
/// it rests on a few entries of at most 64 KiB each.
pub fn fitting<A: Message>(size: u32, ask: impl Fn(u32) -> Result<A, QueryError>) -> Result<A, QueryError> {
    let mut answer = ask(size)?;
    let mut size = if size == 0 { DEFAULT_PAGE_SIZE } else { size };
    loop {
        let length = answer.encoded_len();
        if length <= MAX_PAGE_LENGTH || size <= 1 {
            return Ok(answer);
        }
        // As many as would fit if they were all alike; at most half, so that it ends soon.
        let share = u64::from(size) * MAX_PAGE_LENGTH as u64 / length as u64;
        size = u32::try_from(share).unwrap_or(u32::MAX).clamp(1, size / 2);
        answer = ask(size)?;
    }
}

/// What a page is asked with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// How many are wanted; 0: the default.
    pub(super) size: u32,
    /// From the page before; empty: the first page.
    pub(super) token: &'a str,
}

/// Where a page begins, and the moment it answers for.
pub(super) struct Cursor {
    /// What was recorded later is not there for these pages.
    pub(super) as_of_us: u64,
    pub(super) position: [u64; 2],
    pub(super) limit: u64,
    question: [u8; 8],
}

impl Reader<'_> {
    pub(super) fn cursor(
        &self,
        page: Page<'_>,
        (field, at_us): (&'static str, i64),
        question: &[u8],
    ) -> Result<Cursor, QueryError> {
        let limit = match page.size {
            0 => DEFAULT_PAGE_SIZE,
            size if size <= MAX_PAGE_SIZE => size,
            size => {
                let allowed = format!("at most {MAX_PAGE_SIZE} are allowed");
                return Err(QueryError::OutOfRange { field: "page_size", value: size.into(), allowed });
            }
        };
        let hash = Sha256::digest(question);
        let question = hash.first_chunk().copied().expect("a hash has more than eight bytes");
        let limit = u64::from(limit);
        let as_of_us = self.moment(field, at_us)?;
        if page.token.is_empty() {
            return Ok(Cursor { as_of_us, position: [0, 0], limit, question });
        }
        let foreign = || QueryError::Invalid {
            field: "page_token",
            reason: "FOREIGN_TOKEN",
            message: "is not one this question was answered with; leave it empty to begin again".into(),
        };
        let bytes = BASE64.decode(page.token).map_err(|_| foreign())?;
        let (token_question, numbers) = bytes.split_first_chunk::<8>().ok_or_else(foreign)?;
        let numbers: Vec<u64> = numbers
            .chunks(8)
            .map(|chunk| chunk.try_into().map(u64::from_be_bytes).map_err(|_| foreign()))
            .collect::<Result<_, _>>()?;
        match numbers[..] {
            [as_of_us, first, second] if *token_question == question && as_of_us <= self.head.recorded_at_us => {
                Ok(Cursor { as_of_us, position: [first, second], limit, question })
            }
            _ => Err(foreign()),
        }
    }
}

impl Cursor {
    pub(super) fn token(&self, position: [u64; 2]) -> String {
        let mut bytes = self.question.to_vec();
        for number in [self.as_of_us, position[0], position[1]] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        BASE64.encode(bytes)
    }
}
