package main

import (
	"context"
	"errors"
	"fmt"
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
		binary = cmd.Flags().String("envoy", "", "Envoy binary; default $ENVOY, PATH, then the one `make envoy` installs")
		node   = cmd.Flags().String("node", "envoy", "node id, as shown in the sync status")
		conc   = cmd.Flags().Int("concurrency", 0, "worker threads; 0: one per core")
		drain  = cmd.Flags().Duration("drain", 5*time.Second, "how long to let requests finish on stop")
	)
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
		select {
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
