// Package agent is both ends of the agent link: the wire between a host and the agent in one of its
// guests, the guest's server (input, commands, pictures) and the host's client.
//
// On the host a [Connector] makes a desktop.Agent of a byte stream. In the guest [Run] answers on a
// virtio-serial port. The package knows nothing of libvirt (it is handed the stream), of users or of
// SQL; how input reaches X is the business of whoever implements [Display].
//
// # Trust
//
// The guest is hostile: everything that comes from it is bounded in size, time and number, cleaned
// of invalid text, and an error of it has one of a few codes. The host is trusted by the guest: it
// owns the machine.
//
// # The pipe
//
// The link is a virtio-serial port named org.bureau.agent.0: a byte pipe without connections. While
// no host is connected the guest reads an end of file, and its writes wait. When the guest's process
// ends the host notices nothing. Bytes that either side wrote to a peer that is gone may reach the
// next one. So a session begins with a handshake, and may end by the beginning of another one.
//
// # The handshake
//
// Its frames have 128 bytes, numbers in network order:
//
//	  0   8  F5 'B' 'U' 'R' 'E' 'A' 'U' 0A
//	  8   1  kind: 1 HELLO, 2 ACK, 3 START, 4 READY, 5 BOOT
//	  9   1  version of the protocol after the handshake: 1
//	 10  16  the host's nonce, 0 in BOOT
//	 26  16  the guest's nonce, 0 in HELLO and BOOT
//	 42  32  in ACK: fingerprint of the guest's agent binary
//	 74  46  in ACK: the guest's version, in UTF-8, padded with 0
//	120   4  0
//	124   4  CRC-32 (IEEE) of the 124 bytes before
//
// The fingerprint is the sha256 of the file's size (8 bytes) and of 64 blocks of 8192 bytes of it,
// block i beginning at (size-8192)*i/63, rounded down. A guest with another fingerprint than the
// host's own binary is given that.
//
// A receiver drops every byte that is not part of a frame with a right checksum. "Flush" stands for
// 32780 bytes of FF.
//
//  1. The host sends flush, then HELLO with a fresh nonce, and HELLO again every 250 ms (growing to
//     1 s) while its earlier bytes are taken, and at once upon BOOT.
//  2. The guest sends flush and BOOT when it begins to wait for a host: when it starts and after each
//     session. It answers each HELLO with ACK: that host's nonce and one that it makes for this wait.
//  3. The host, upon ACK with its nonce, sends START with both and nothing more. It drops all until
//     READY with both; after 3 s, or BOOT, it goes back to HELLO with another nonce.
//  4. The guest, upon START with the nonce of the last HELLO and its own, sends READY. From the next
//     byte on both speak the multiplexer's protocol.
//
// A session ends for one side as soon as it reads something that is no frame of the multiplexer.
// So a new host ends the guest's old session by its flush and HELLO, and a new agent ends the host's
// by its flush and BOOT: the flush sees to it that the reader is not in the middle of a frame.
//
// # The multiplexer
//
// It is yamux (https://github.com/hashicorp/yamux/blob/master/spec.md), the host being the client
// (odd stream numbers), with windows of 256 KiB, and a data frame carries at most 32 KiB. Either side
// pings every 5 s and gives the other 10 s to answer; more than 20 pings in a second end the session,
// as does any frame that breaks these rules. The host serves at most 64 streams of the guest at once,
// the guest 1024 of the host; 64 more may wait, and those beyond are reset. Each stream carries HTTP/1.1, the opener being the client, and may be used for many
// requests. The host's requests go to the agent, the guest's to whatever the host offers to guests:
// the models that it lends. Programs in the guest find them at http://127.0.0.1:7879, where the agent
// listens and passes each request on as it is, and are told so by variables such as
// ANTHROPIC_BASE_URL. While no host is connected the answer is 503, with Retry-After.
//
// # The agent's requests
//
// A status other than 200 or 204 comes with a JSON object: code (invalid, not-found, conflict,
// too-large or unavailable; anything else is a fault of the agent), message, and details. A request
// that is cancelled closes its stream, and what it asked for is stopped.
//
//	GET /status    desktop.AgentStatus in JSON, one line now and one with each change, without end;
//	               a line has at most 64 KiB
//	POST /act      {"actions": [desktop.Action…]}; answers desktop.Acted, and "synced" when it is, in
//	               one line, and ends the answer when what the X server drew upon it is on the display
//	GET /capture   the picture: eight 32-bit numbers (width and height of the display; width and
//	               height of the cursor's image, 0 for none; its hot spot's x, y; where that spot is
//	               on the display, x, y), the display's pixels, the cursor's; pixels are R, G, B, A of
//	               8 bits, row by row, the cursor's premultiplied with alpha
//	GET /cursor    the last six of those numbers, and the cursor's pixels
//	GET /windows   desktop.Window… in a JSON list, 1000 at most
//	POST /windows/active, /windows/close
//	               {"id": the window}; answers 204
//	GET /clipboard, PUT /clipboard
//	               the text on the clipboard, in UTF-8, 1 MiB at most; PUT answers 204
//	PUT /size      {"width", "height"} of the display; answers 204
//	POST /exec     desktop.Exec in JSON; answers chunks as the command produces them: kind (1 byte),
//	               length (4 bytes, at most 65536), content. Kinds: 1 standard output, 2 standard
//	               error, and at the end either 3, desktop.ExecResult in JSON without output, or
//	               4, an error as above; the answer ends as that of /act does
//	PUT /agent     another agent's binary, its sha256 in hex in the header Bureau-Sha256; answers 204,
//	               and when the session ends, which it then does within 2 s, that binary takes over
package agent
