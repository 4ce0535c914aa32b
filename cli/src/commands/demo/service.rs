//! Built-in stand-ins for the two companies' services: an HTTP server that answers every request with one page, and a client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves `page` on a free port of this machine until the process ends.
pub fn serve(page: String) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let page = page.clone();
            std::thread::spawn(move || answer(&socket, &page));
        }
    });
    Ok(address)
}

fn answer(socket: &TcpStream, page: &str) -> std::io::Result<()> {
    socket.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    // The head of the request; its end is an empty line.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut socket = socket;
    write!(
        socket,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
        page.len()
    )
}

/// What `GET /` at `address` answers, the secret of the asker in a header.
pub fn get(address: SocketAddr, secret: &str) -> std::io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET / HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_arrives() {
        let address = serve("hello".to_owned()).unwrap();
        assert!(get(address, "s").unwrap().ends_with("\r\n\r\nhello"));
    }
}
