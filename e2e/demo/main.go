// Command demo shows Keybridge at work: it starts real providers and all of
// Keybridge on this machine, makes a repository with its keys, and lets SDKs that
// know only those do their first put, get, list and streamed chat through a real
// Envoy. Then it shows who saw which credential, and exits with a status; with
// --stay it stays up and prints the lines to try.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"keybridge/e2e/provider"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var o options
	flag.BoolVar(&o.stay, "stay", false, "stay up until Ctrl-C")
	flag.StringVar(&o.state, "state", "", "folder that keeps everything for the next run; default: a temporary one")
	flag.StringVar(&o.s3, "s3", "", "address of the S3 listener; default 127.0.0.1:9000 with --stay, else a free port")
	flag.StringVar(&o.ai, "ai", "", "address of the AI listener; default 127.0.0.1:9001 with --stay, else a free port")
	flag.StringVar(&o.admin, "admin", "", "address of the admin API; default 127.0.0.1:9002 with --stay, else a free port")
	flag.StringVar(&o.binary, "keybridge", "", "the keybridge executable; default $KEYBRIDGE_BIN, then bin/keybridge of this checkout")
	flag.Parse()
	if err := demo(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "\n  ✗", err)
		os.Exit(1)
	}
}

type options struct {
	stay, temporary              bool
	state, s3, ai, admin, binary string
}

func (o *options) complete() error {
	if o.stay {
		for address, standard := range map[*string]string{&o.s3: "127.0.0.1:9000", &o.ai: "127.0.0.1:9001", &o.admin: "127.0.0.1:9002"} {
			if *address == "" {
				*address = standard
			}
		}
	}
	for name, address := range map[string]string{"s3": o.s3, "ai": o.ai, "admin": o.admin} {
		if address == "" {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("%w; choose another address with --%s", err, name)
		}
		l.Close()
	}
	if o.binary == "" {
		o.binary = os.Getenv("KEYBRIDGE_BIN")
	}
	if o.binary == "" {
		root, err := provider.ModuleRoot()
		if err != nil {
			return err
		}
		o.binary = filepath.Join(root, "bin", "keybridge")
	}
	if _, err := os.Stat(o.binary); err != nil {
		return fmt.Errorf("%w; run `make build`", err)
	}
	var err error
	if o.state == "" {
		o.temporary = true
		// Short, because a unix socket's path has 107 bytes.
		o.state, err = os.MkdirTemp("", "kb-demo-")
		return err
	}
	o.state, err = filepath.Abs(o.state)
	return err
}

func demo(ctx context.Context, o options) (err error) {
	begin := time.Now()
	if err := o.complete(); err != nil {
		return err
	}
	if o.temporary {
		defer func() { err = errors.Join(err, os.RemoveAll(o.state)) }()
	}
	fmt.Print("\nKeybridge: repository keys in front of real S3 and LLM credentials\n")
	h, err := build(ctx, o)
	defer func() { err = errors.Join(err, h.close()) }()
	if err != nil {
		return h.explain(ctx, err)
	}
	if err := h.use(ctx); err != nil {
		return h.explain(ctx, err)
	}
	if err := h.account(); err != nil {
		return err
	}
	fmt.Printf("\nAll of it held, in %.1f s.\n", time.Since(begin).Seconds())
	if !o.stay {
		return nil
	}
	h.invite()
	select {
	case <-ctx.Done():
		fmt.Print("\nStopping…\n")
		return nil
	case <-h.stack.Done():
		return h.explain(ctx, errors.New("keybridge dev has ended"))
	}
}
