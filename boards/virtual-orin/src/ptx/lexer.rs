//! Words and marks of a PTX text.

use super::PtxError;

/// A token: a word (names, opcodes, directives, numbers), a quoted string, or a one-character mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    Word(&'a str),
    Quoted(&'a str),
    Mark(char),
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

/// Tokens with their lines, comments removed. `L2::128B` stays inside its word.
pub fn lex(text: &str) -> Result<Vec<(u32, Token<'_>)>, PtxError> {
    let bytes = text.as_bytes();
    let (mut tokens, mut line, mut at) = (Vec::new(), 1u32, 0usize);
    while at < bytes.len() {
        let b = bytes[at];
        match b {
            b'\n' => {
                line += 1;
                at += 1;
            }
            b' ' | b'\t' | b'\r' => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at..].find("*/").ok_or(PtxError::Syntax {
                    line,
                    found: "/*".into(),
                    expected: "`*/` before the end of the text",
                })?;
                line += text[at..at + end].matches('\n').count() as u32;
                at += end + 2;
            }
            b'"' => {
                let end = text[at + 1..].find('"').ok_or(PtxError::Syntax {
                    line,
                    found: "\"".into(),
                    expected: "a closing quote",
                })?;
                tokens.push((line, Token::Quoted(&text[at + 1..at + 1 + end])));
                at += end + 2;
            }
            b if word_byte(b) => {
                let start = at;
                while at < bytes.len() {
                    let inside_pair = bytes[at] == b':' && bytes.get(at + 1) == Some(&b':');
                    if inside_pair {
                        at += 2;
                    } else if word_byte(bytes[at]) {
                        at += 1;
                    } else {
                        break;
                    }
                }
                tokens.push((line, Token::Word(&text[start..at])));
            }
            b if b.is_ascii_punctuation() => {
                tokens.push((line, Token::Mark(b as char)));
                at += 1;
            }
            _ => {
                let found = text[at..].chars().next().map(String::from).unwrap_or_default();
                return Err(PtxError::Syntax { line, found, expected: "ASCII text" });
            }
        }
    }
    Ok(tokens)
}
