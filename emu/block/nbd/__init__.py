"""Images that an NBD server has. The protocol is doc/proto.md of github.com/NetworkBlockDevice/nbd."""
