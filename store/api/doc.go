// Package api is the admin HTTP server: workspaces, connectors, repositories and
// repository keys over a [store.Store]. openapi.yaml beside this file is its
// reference, served at /openapi.yaml, and a test holds the two together.
//
// What it promises:
//
//   - A provider secret that is posted in clear is sealed before anything is
//     stored, and its bytes are overwritten once the request is answered; one that
//     is posted sealed is compared with the request field by field and never
//     seen. The server can open neither. (Buffers of encoding/json, net/http and TLS
//     are out of its reach: callers who mind seal before they send, as package
//     client does.)
//   - The secret of a repository key leaves in the response that creates the key
//     and never again: not from a list, not for a repeated Idempotency-Key.
//   - No response holds ciphertext, no log line a header, a query or a body.
//   - What a request may touch is decided by its token's role in the workspace of
//     the record itself, whatever workspace the request names: READ sees, WRITE
//     also changes connectors, repositories and keys, ADMIN also the workspace;
//     ADMIN of "*" makes workspaces.
//   - Each write rests on one revision of the store, so that two requests that are
//     each allowed cannot together leave a repository without its connector.
package api
