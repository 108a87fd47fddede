// Package llm lets an application use OpenAI-compatible APIs and Anthropic's with a
// repository key instead of the provider's: it checks the key and the path, and has
// Envoy forward the request with a connector's own key. Answers and streams pass
// untouched and unseen; of a body no more is read than the model that it names, and
// that only where the choice of connector hangs on it.
//
// # Keys
//
// A repository key is "kb-<id>-<random>", sent as "Authorization: Bearer <key>", to
// Anthropic's API also as "x-api-key: <key>", and once; id is public, random carries
// 256 bits. What is sealed is SHA-256(key), compared in constant time: with that much
// entropy there is nothing to guess, so no slow hash is needed, and the bridge cannot
// give away what it does not hold. Unknown, wrong, disabled and expired keys, and keys
// for storage, get one and the same answer.
//
// Keys of type ANTHROPIC reach the Anthropic connectors of their repository, keys of
// type OPENAI and OTHER the OpenAI-compatible ones; what a key does not reach does not
// exist for it.
//
// # Paths
//
// A key reaches, below /v1 and below /connectors/{name}/v1, nothing but
//
//	POST /v1/chat/completions   POST /v1/completions   POST /v1/embeddings   (OPENAI, OTHER)
//	POST /v1/messages           POST /v1/messages/count_tokens               (ANTHROPIC)
//	GET  /v1/models             GET  /v1/models/{model}
//
// All tenants of one provider account share what the account stores, so whatever
// lists, reads or changes stored things is refused: files, batches (of messages too),
// skills, fine-tuning, assistants, agents, threads, vector stores, the organization,
// and stored chat completions (GET, DELETE and POST /v1/chat/completions/…; one that a
// client stores with "store": true cannot be read back here). POST /v1/responses
// stores unless its body says "store": false, and reads others' by
// "previous_response_id": it needs a look at the whole body, which this package does
// not take. What a body refers to by an id that its client must know already (a file,
// a container) is the provider's to grant or refuse.
//
// The path is matched as raw bytes and forwarded as raw bytes; Envoy normalises
// nothing. Dot segments, empty segments, encoded or not, and double encoding are
// refused, so that no provider can understand another path than the one allowed here.
//
// Query strings of OpenAI's API are refused, empty ones too: none of these operations
// has a parameter there, and SDKs put API keys there ("?key=", "?api_key="), which
// would carry a repository key to the provider. Anthropic's have beta=true, and limit,
// after_id and before_id of the list of models; nothing else passes.
//
// # Connectors
//
// A repository with one connector that the key reaches uses that one, and the
// connector that a path names is the one used: neither takes more than the headers.
// Otherwise the body is read up to its top-level "model" and held until then. The
// model chooses among the connectors: one that has it by its own name, then the
// longest pattern ("gpt-*") that fits, then the order in the repository. A model that
// fits none is refused; nothing is guessed. Routing is no authorisation: a key may use
// every connector that a model can lead to.
//
// The text must be JSON as far as it was read, its root an object. Two top-level
// models are refused (parsers differ on which one counts) wherever both have arrived,
// and in bodies of up to 64 KiB always, since those are read whole; behind that a
// second one can only make the provider that the first one chose refuse or serve
// what it has.
//
// With several connectors GET /v1/models is answered here, from what is known of their
// models, each model once and from the connector that a request for it goes to; and so
// it is, also with one connector, in the form that its provider does not speak.
// GET /v1/models/{model} goes to the connector of the model.
//
// # Forms
//
// /v1/messages is Anthropic's, /v1/chat, /v1/completions and /v1/embeddings are
// OpenAI's; what both have, and what neither has, is Anthropic's if the request has an
// anthropic-version. Errors have OpenAI's form {"error":{"message","type","param","code"}}
// or Anthropic's {"type":"error","error":{"type","message"}}; the few that are given
// without regard to the request (the bridge is sealed or stopping, a body is too large
// or too slow) have the members of both.
//
// # The provider's errors
//
// They pass as they come, but for 401, which is about the connector's key: see Review.
//
// # What the provider sees
//
// The binding's authority, its base path and the rest of the path, and the connector's
// key: Authorization for OpenAI-compatible ones, x-api-key for Anthropic. Removed are
// all other headers that carry a credential, choose an account, or part of one, to
// bill, or make some servers act on another method or path.
//
// Of Anthropic's own headers pass: anthropic-version, if it is a date (it chooses the
// form of the answer and nothing else, so dates need no list);
// anthropic-dangerous-direct-browser-access; and anthropic-beta if each feature in it
// is on the list of those that concern one message alone, in any dated revision. A
// feature that is not listed is refused by name: dropped in silence it would change
// the answer. Other anthropic-* headers, which select a workspace or user profile of
// the account, are removed.
package llm
