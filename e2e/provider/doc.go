// Package provider starts the servers that the end-to-end tests and the demo put
// behind Keybridge: versitygw, a real and strict S3 server, and OpenAI, a small
// OpenAI-compatible server that answers only what is exactly right.
//
// Both stand behind a Recorder, a tee on the TCP stream that forwards every byte
// as it came and keeps each request's line, headers and byte counts. The servers
// themselves listen on unix sockets, so that whatever reached a provider over the
// network is in its Recorder: "no call at the provider" is len(Requests()) == 0.
//
// A Fault has a Recorder fail what passes it; DNS is a name server that fails as it is
// told.
//
// Everything listens on loopback, on ports the kernel chose, and ends with Close;
// versitygw also ends with the process that started it. Linux only.
package provider
