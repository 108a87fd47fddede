// Package api is the admin HTTP server: workspaces, credentials, connectors,
// repositories, repository keys and admin tokens over a [store.Store], what the
// connected bridges say ([Fleet]), and the audit log ([Auditor]). openapi.yaml
// beside this file is its reference, served at /openapi.yaml, and a test holds the
// two together.
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
//     and never again: not from a list, not for a repeated Idempotency-Key. The same
//     holds for an admin token, of which only the SHA-256 is kept.
//   - No response holds ciphertext, no log line a header, a query or a body.
//   - What a request may touch is decided by its token's role in the workspace of
//     the record itself, whatever workspace the request names: READ sees, WRITE
//     also changes credentials, connectors, repositories and keys, and has them
//     tried; ADMIN also changes the workspace and gives out tokens for it, never
//     for more; ADMIN of "*" makes workspaces.
//   - A stored secret is tried only by a bridge and only for what it is sealed for;
//     what a provider answers is passed on as one short line.
//   - A change is in the audit log before it is in the store, or is not made.
//   - A caller who is too fast, or guesses tokens, is told when to come back, and
//     costs bounded memory.
//   - Each write rests on one revision of the store, so that two requests that are
//     each allowed cannot together leave a repository without its connector.
package api
