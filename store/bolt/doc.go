// Package bolt is the embedded store: one bbolt file, one control plane.
//
// The file is created with mode 0600 and locked while open. It holds
//
//	meta        "format" → 1, "revision" → the last write's (8 bytes, big-endian)
//	records     kind 0x00 id → {"unique": […], "record": {…}}
//	workspaces  kind 0x00 workspace 0x00 id → nothing
//	names       unique name → kind 0x00 id
//	changes     revision (8 bytes, big-endian) kind 0x00 id → nothing
//
// where changes has one entry per record, at its last revision: a Watch is a
// scan of that bucket, however long ago the watcher left off, and the file does
// not grow with the number of writes.
//
// bbolt frees pages without overwriting them. The ciphertext of a deleted
// record is gone from every answer at once, but its bytes can stay in free
// pages of the file (and in backups of it) until those are used again.
package bolt
