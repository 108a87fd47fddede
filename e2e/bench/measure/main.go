// Command measure is what `make bench` and `make bench-peers` run: see package bench.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// options are the command line's.
type options struct {
	rounds, seconds int
	mib             int
	only            string
	out             string // folder of the JSON files
	binary          string
	parts           []string
}

// The parts, in the order in which they are done.
var parts = []string{"requests", "uploads", "memory", "profiles", "peers"}

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "interleaved rounds, of which the median counts")
	flag.IntVar(&o.seconds, "seconds", 4, "length of one measurement of small requests")
	flag.IntVar(&o.mib, "mib", 256, "size of each of 64 uploads at once")
	flag.StringVar(&o.only, "only", "", "measure only configurations whose names hold this, and write nothing")
	flag.StringVar(&o.out, "out", ".", "folder of bench.json and peers.json")
	flag.StringVar(&o.binary, "keybridge", "bin/keybridge", "the executable under test")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: measure [flags] [%s]...\n", strings.Join(parts, "|"))
		flag.PrintDefaults()
	}
	flag.Parse()
	if o.parts = flag.Args(); len(o.parts) == 0 {
		o.parts = []string{"requests", "uploads", "memory"}
	}
	for _, p := range o.parts {
		if !slices.Contains(parts, p) {
			flag.Usage()
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "measure:", err)
		os.Exit(1)
	}
}

func (o *options) does(part string) bool { return slices.Contains(o.parts, part) }
