//! Pages: a list that is too long for one answer comes in several.
//!
//! A page token pins the moment all pages answer for, and belongs to one question.

use std::cell::Cell;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest as _, Sha256};

use super::{QueryError, Reader};

/// Items on a page, if the question doesn't say.
pub const DEFAULT_PAGE_SIZE: u32 = 100;
/// Most items on a page.
pub const MAX_PAGE_SIZE: u32 = 1000;
/// What a page is asked with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page<'a> {
    /// Items wanted; 0: the default.
    pub(super) size: u32,
    /// From the page before; empty: the first page.
    pub(super) token: &'a str,
}

/// Where a page begins, and the moment it answers for.
pub(super) struct Cursor {
    pub(super) as_of_us: u64,
    /// Number of entries that moment covers: what came later is not there for these pages.
    pub(super) size: u64,
    pub(super) position: [u64; 2],
    pub(super) limit: usize,
    /// Members of catalogues looked at for this page so far.
    pub(super) looked: Cell<u64>,
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
        let limit = usize::try_from(limit).expect("a page size fits");
        let as_of_us = self.moment(field, at_us)?;
        if page.token.is_empty() {
            return Ok(Cursor {
                as_of_us,
                size: self.head.size,
                position: [0, 0],
                limit,
                question,
                looked: Cell::new(0),
            });
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
            [as_of_us, size, first, second]
                if *token_question == question && size <= self.head.size && as_of_us <= self.head.recorded_at_us =>
            {
                Ok(Cursor { as_of_us, size, position: [first, second], limit, question, looked: Cell::new(0) })
            }
            _ => Err(foreign()),
        }
    }
}

impl Cursor {
    pub(super) fn token(&self, position: [u64; 2]) -> String {
        let mut bytes = self.question.to_vec();
        for number in [self.as_of_us, self.size, position[0], position[1]] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        BASE64.encode(bytes)
    }
}
