//! TLS in front of an RTMP connection: bytes of the peer in, plain bytes out, and back, with rustls and
//! no socket, so that it moves between shards with the connection it belongs to. Knows nothing of RTMP.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// Plain bytes taken at once for sending: four records, twice what one answer of a session can be.
const PLAIN_BYTES_MAX: usize = 64 * 1024;

/// The server's side of one connection. What rustls itself holds of a peer's bytes is one handshake
/// message of at most 64 KiB, or one record of 16 KiB, since plain bytes are taken out at once.
pub(super) struct Tls {
    connection: ServerConnection,
}

impl Tls {
    /// A connection that has not said anything yet.
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut connection = ServerConnection::new(config)?;
        connection.set_buffer_limit(Some(PLAIN_BYTES_MAX));
        Ok(Self { connection })
    }

    /// Bytes of the peer; what they hold is added to `plain`. True once the peer has said goodbye.
    /// After an error [`Self::take_sealed`] has the alert that tells the peer.
    pub(super) fn handle_input(
        &mut self,
        mut sealed: &[u8],
        plain: &mut Vec<u8>,
    ) -> Result<bool, rustls::Error> {
        let broken = |_| rustls::Error::General("a buffer is full".into());
        while !sealed.is_empty() {
            if self.connection.read_tls(&mut sealed).map_err(broken)? == 0 {
                break;
            }
            let state = self.connection.process_new_packets()?;
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            if let Some(room) = plain.get_mut(start..) {
                self.connection.reader().read_exact(room).map_err(broken)?;
            }
            if state.peer_has_closed() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Seals bytes for the peer. An error means that it does not read what it is sent.
    pub(super) fn seal(&mut self, plain: &[u8]) -> std::io::Result<()> {
        self.connection.writer().write_all(plain)
    }

    /// Says goodbye.
    pub(super) fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// What is to be sent, the handshake included.
    pub(super) fn take_sealed(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut sealed).is_err() {
                break;
            }
        }
        sealed
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::default_provider;
    use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn pair() -> (Tls, ClientConnection) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(default_provider());
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        (Tls::new(Arc::new(server)).unwrap(), client)
    }

    fn from_client(client: &mut ClientConnection) -> Vec<u8> {
        let mut sealed = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sealed).unwrap();
        }
        sealed
    }

    fn to_client(client: &mut ClientConnection, sealed: &[u8]) -> Vec<u8> {
        let (mut rest, mut plain) = (sealed, Vec::new());
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            let state = client.process_new_packets().unwrap();
            let start = plain.len();
            plain.resize(start + state.plaintext_bytes_to_read(), 0);
            client.reader().read_exact(&mut plain[start..]).unwrap();
        }
        plain
    }

    #[test]
    fn bytes_arrive_however_they_are_cut_and_both_say_goodbye() {
        for cut in [1, 7, 1000, 100_000] {
            let (mut tls, mut client) = pair();
            let sent: Vec<u8> = (0..60_000u32).map(|n| n as u8).collect();
            let (mut plain, mut wrote, mut heard) = (Vec::new(), false, Vec::new());
            for _ in 0..8 {
                for piece in from_client(&mut client).chunks(cut) {
                    assert!(!tls.handle_input(piece, &mut plain).unwrap());
                }
                heard.extend(to_client(&mut client, &tls.take_sealed()));
                if !client.is_handshaking() && !wrote {
                    client.writer().write_all(&sent).unwrap();
                    tls.seal(b"answer").unwrap();
                    wrote = true;
                }
            }
            assert!(plain == sent && heard == b"answer", "pieces of {cut}");
            client.send_close_notify();
            assert!(tls.handle_input(&from_client(&mut client), &mut plain).unwrap());
            tls.close();
            assert!(!tls.take_sealed().is_empty());
        }
    }

    #[test]
    fn plain_rtmp_is_refused_with_an_alert_and_holds_nothing() {
        let (mut tls, _) = pair();
        let mut plain = Vec::new();
        assert!(tls.handle_input(&[3; 1537], &mut plain).is_err());
        assert!(plain.is_empty());
        assert_eq!(tls.take_sealed().first(), Some(&21), "an alert record");
    }

    #[test]
    fn a_peer_that_reads_nothing_meets_the_cap() {
        let (mut tls, _) = pair();
        let answer = [0; 16 * 1024];
        let taken = (0..100).take_while(|_| tls.seal(&answer).is_ok()).count();
        assert!(taken * answer.len() <= PLAIN_BYTES_MAX);
    }
}
