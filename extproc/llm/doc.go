// Package llm lets an application use an OpenAI-compatible API with a repository
// key instead of the provider's: it checks the key and the path, and has Envoy
// forward the request with the connector's own key. Bodies and streams pass
// untouched and unseen.
//
// # Keys
//
// A repository key is "kb-<id>-<random>", sent as "Authorization: Bearer <key>" and
// in no other way; id is public, random carries 256 bits. What is sealed is
// SHA-256(key), compared in constant time: with that much entropy there is nothing
// to guess, so no slow hash is needed, and the bridge cannot give away what it does
// not hold. Unknown, wrong, disabled and expired keys, and keys for storage, get one
// and the same answer.
//
// # Paths
//
// A key reaches, below /v1 when its repository has one AI connector, and below
// /connectors/{name}/v1 in any case, nothing but
//
//	POST /v1/chat/completions   POST /v1/completions   POST /v1/embeddings
//	GET  /v1/models             GET  /v1/models/{model}
//
// All tenants of one provider account share what the account stores, so whatever
// lists, reads or changes stored things is refused: files, batches, fine-tuning,
// assistants, threads, vector stores, the organization, and stored chat completions
// (GET, DELETE and POST /v1/chat/completions/…; one that a client stores with
// "store": true cannot be read back here). POST /v1/responses stores unless its body
// says "store": false, and reads others' by "previous_response_id": it needs a look
// at the body, which this package does not take.
//
// The path is matched as raw bytes and forwarded as raw bytes; Envoy normalises
// nothing. Dot segments, empty segments, encoded or not, and double encoding are
// refused, so that no provider can understand another path than the one allowed here.
//
// Query strings are refused, empty ones too: none of these operations has a parameter
// there, and SDKs put API keys there ("?key=", "?api_key="), which would carry a
// repository key to the provider.
//
// # What the provider sees
//
// The binding's authority, its base path and the rest of the path, and one
// Authorization header. Removed are all other headers that carry a credential, choose
// an account to bill, or make some servers act on another method or path.
//
// Errors have OpenAI's form: {"error":{"message","type","param","code"}}.
package llm
