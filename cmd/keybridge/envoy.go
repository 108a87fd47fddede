package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"keybridge/envoy"
)

func envoyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "envoy",
		Short: "Run the Envoy of a bridge on this host",
		Long: `Runs the pinned Envoy with a bootstrap that knows one thing: the unix socket of
its bridge, from which all configuration comes. Its admin interface is a unix
socket in --dir. On SIGTERM Envoy drains before it stops; if this process dies,
Envoy dies with it.`,
		Example: "  keybridge envoy --dir /run/keybridge/envoy --bridge /run/keybridge/bridge/bridge.sock",
		Args:    cobra.NoArgs,
	}
	var (
		dir    = cmd.Flags().String("dir", "", "directory for bootstrap and admin socket (0700)")
		bridge = cmd.Flags().String("bridge", "", "unix socket of the bridge")
		binary = cmd.Flags().String("envoy", "", "Envoy binary; default $ENVOY, PATH, then the one \"make envoy\" installs")
		node   = cmd.Flags().String("node", "envoy", "node id, as shown in the sync status")
		conc   = cmd.Flags().Int("concurrency", 0, "worker threads; 0: one per core")
		drain  = cmd.Flags().Duration("drain", 5*time.Second, "how long to let requests finish on stop")
	)
	metrics := cmd.Flags().String("metrics", "", "address for /metrics, Envoy's own statistics, e.g. 127.0.0.1:7082; empty: none")
	required(cmd, "dir", "bridge")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		path, err := envoy.Find(*binary)
		if err != nil {
			return err
		}
		socket, err := filepath.Abs(*bridge)
		if err != nil {
			return err
		}
		// Not started under the command's context: its end means a drain, not a kill.
		p, err := envoy.Start(context.WithoutCancel(cmd.Context()), envoy.Config{
			Binary: path, Dir: *dir, ADSSocket: socket, NodeID: *node,
			Concurrency: *conc, Drain: *drain, Log: os.Stderr,
		})
		if err != nil {
			return err
		}
		serving, stopServing := context.WithCancel(cmd.Context())
		defer stopServing()
		served := make(chan error, 1)
		if *metrics != "" {
			go func() {
				if err := serveHTTP(serving, "metrics", *metrics, envoyMetrics(p)); err != nil {
					served <- err
				}
			}()
		}
		select {
		case err := <-served:
			return errors.Join(fmt.Errorf("--metrics: %w", err), p.Stop(context.WithoutCancel(cmd.Context())))
		case <-cmd.Context().Done():
			ctx, cancel := context.WithTimeout(context.Background(), *drain+5*time.Second)
			defer cancel()
			return p.Stop(ctx)
		case <-p.Done():
			if err := p.Err(); err != nil {
				return fmt.Errorf("envoy ended: %w", err)
			}
			return errors.New("envoy ended by itself")
		}
	}
	return cmd
}

// envoyMetrics shows Envoy's statistics without its admin interface, which can do more than show.
func envoyMetrics(p *envoy.Process) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		stats, err := p.Admin(r.Context(), "/stats/prometheus?usedonly")
		if err != nil {
			http.Error(w, "Envoy does not answer", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(stats) // the scraper went away
	})
	return mux
}
