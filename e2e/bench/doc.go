// Package bench measures what DESIGN.md sets numbers for and only whole processes
// can show: the tests and benchmarks of this package, how fast many bridges follow and
// how large one may grow (run it with `go test -v -bench . ./e2e/bench`; as a plain
// test it holds the bars; the race detector changes the numbers: with it there are no
// tests); the commands below it, what a request costs.
//
// # Requests
//
// Command measure starts a house of real processes on one machine: `keybridge dev`
// (three keepers, control plane, bridge, Envoy), another Envoy with the configurations
// that Keybridge is compared with, the frozen no-op processor (command noop), nginx as
// the provider of small requests, command upstream as that of uploads. Both Envoys have
// one worker, every Go process of Keybridge and the no-op GOMAXPROCS=1. The Envoys have
// one core, all others together another. Then, in interleaved rounds of which the median
// counts:
//
//   - small requests by wrk, with 1 and 16 connections: the GetObject that AWS's SDK
//     makes, and the chat that OpenAI's client for Python makes. CPU time is read from
//     the processes' CPU clocks, in nanoseconds, and divided by the requests.
//   - one upload of 1 GiB at a time, unsigned and in signed chunks of 64 KiB. The
//     client has the kernel send a file, and the chunks were signed before.
//   - 64 uploads of 256 MiB in signed chunks at once, while the bridge's memory is watched.
//   - profiles of the bridge, by a binary made for that from the test files of
//     cmd/keybridge: see profiles.md.
//
// Nothing is timed before one request of each configuration did what it is there for:
// versitygw verifies what Keybridge and Envoy's own signing make of the S3 request (and
// refuses what passes unsigned), a recorder looks at the chat's key. A request that
// fails while it is timed, or that the provider has not seen, ends the run.
//
// # What is compared
//
//   - plain: Envoy that passes requests on.
//   - native: the same with its own filter aws_request_signing. It signs and verifies
//     nothing: whoever reaches it may.
//   - noop: the same with ext_proc and a processor that is sent all headers and answers
//     nothing. Its filter has the mode of Keybridge's: with response trailers, so that
//     the stream lives as long as the request.
//   - noop-forward-rules: the same with the headers that Keybridge's AI listener leaves
//     out left out. Its S3 listener leaves none out, as a client may sign any.
//   - echo: the same with all of the body sent to the processor, which sends it back.
//   - keybridge: verify the client's signature or key, find its connector, sign or
//     authorise for the provider, all in its own Envoy and bridge.
//
// What a listener sets that costs or saves time whoever processes the request is the
// same in all (envoys.yaml has the list); all that is there for Keybridge alone counts as its cost.
//
// Ratios are medians of the rounds' own ratios: what a busy machine does to both sides
// of a round cancels out. CPU is compared with 16 connections, where it is what
// limits, and is Envoy's and the processor's together; waiting (p50) with one connection.
//
// # Others
//
// `measure peers` puts LiteLLM's proxy, Portkey's gateway, versitygw's S3 proxy and
// nginx that only passes on before the same provider, each with one worker. CPU is that
// of all processes of a product.
package bench
