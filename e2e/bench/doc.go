// Package bench measures what DESIGN.md sets numbers for and only whole processes
// can show. Run it with `go test -v -bench . ./e2e/bench`; as a plain test it
// holds the bars. The race detector changes the numbers: with it there are no tests.
package bench
