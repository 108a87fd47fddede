// Package client is a bridge's side of the control plane's ADS: it subscribes to
// every typed resource that its identity may see and keeps them, over delta
// streams that it opens again with back-off whenever they end.
//
// The state it hands on is always whole: nothing is handed on before the first
// answer for every type has come, and changes that arrive together are handed on
// together. A response is acknowledged after the callback has taken the state
// that holds it, and rejected, with the callback's words, if it has not. What
// cannot be a valid resource is rejected by name and does not keep others from
// being applied.
//
// While the control plane is away the last state stays; when it returns, the
// client says what it has and is sent the difference.
package client
