// Package leak finds secrets where they must not be: in a byte stream, under a
// directory, in the command line, environment or memory of a process.
//
// A secret is looked for as it is, in hex, and in base64 at each of the three
// alignments that it can have inside a longer text, standard and URL alphabet.
// What is not found: a secret that was compressed, encrypted, split, or escaped
// (a PEM text as a JSON string). It is a tool for tests, which know every secret
// they made; it holds them in ordinary memory.
package leak
