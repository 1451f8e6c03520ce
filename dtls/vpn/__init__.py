"""What any VPN protocol over TLS and DTLS has, whichever it is: a server, a login, a session, frames. No I/O."""
