// Package audit is the control plane's memory of who changed what: a file of JSON
// lines, one per decision that changes state, never one per request.
//
// Each line carries its number, the hash of the line before it and its own hash,
//
//	{"seq":2,"id":"…","time":"…","context":"connector","event":"created",…,"prev":"…","hash":"…"}
//
// where hash is the hex SHA-256 of the line's bytes up to, not including, the text
// ,"hash": . The first line's prev is empty. So no line can be changed, inserted,
// taken out or moved without Verify naming it, with nothing but the file at hand:
// no key, no process, no database.
//
// What it does not promise: who may write the file can rewrite all of it from some
// line on and compute the hashes anew, or cut lines off the end. Against that, keep
// a Head (Log.Head; `keybridge audit verify` prints it) somewhere else: a log that
// once had it must have it for ever, and Verify checks that.
//
// A line is on disk before Append returns, and a caller makes its change only then.
// The log may therefore say more than what happened (the process died between the
// two), never less. The file grows for ever; a log that is moved or cut while the
// control plane runs is noticed, and nothing is written any more until a restart.
package audit
