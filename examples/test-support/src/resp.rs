//! As much of the Redis protocol as is needed to give an order and read the answer as text, so that
//! the tests of the client crates do not rest on a client crate.

use std::io;
use std::net::Ipv4Addr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Sends one command over a connection of its own. An array is answered as one line per element, nil
/// as an empty text.
pub(crate) async fn ask(port: u16, words: &[&str]) -> io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).await?;
    read(&mut BufReader::new(stream)).await
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut lines = Vec::new();
    let mut expected = 1_usize;
    while expected > 0 {
        expected -= 1;
        let mut head = String::new();
        if stream.read_line(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let rest = head.get(1..).unwrap_or_default().trim_end();
        match head.as_bytes()[0] {
            b'+' | b':' => lines.push(rest.to_owned()),
            b'-' => return Err(io::Error::other(rest.to_owned())),
            b'$' => {
                let Ok(length) = usize::try_from(number(rest)?) else {
                    lines.push(String::new());
                    continue;
                };
                let mut body = vec![0; length + 2];
                stream.read_exact(&mut body).await?;
                body.truncate(length);
                lines.push(String::from_utf8_lossy(&body).into_owned());
            }
            b'*' => expected += usize::try_from(number(rest)?).unwrap_or(0),
            _ => return Err(io::Error::other(format!("not a reply: {head:?}"))),
        }
    }
    Ok(lines.join("\n"))
}

fn number(text: &str) -> io::Result<i64> {
    text.parse()
        .map_err(|_| io::Error::other(format!("not a length: {text:?}")))
}
