// Command keybridge is every process of Keybridge: control plane, bridge, keeper,
// Envoy's launcher, the one-machine stack and the operator's command line.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"keybridge/keyshare/lockedmem"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var cmd *cobra.Command
	run := lockedmem.Guard(func() (err error) {
		cmd, err = root().ExecuteContextC(ctx)
		return err
	})
	if err := run(); err != nil {
		os.Exit(fail(os.Stderr, cmd, err))
	}
}

func root() *cobra.Command {
	var logLevel string
	cmd := &cobra.Command{
		Use:           "keybridge",
		Short:         "Repository API keys in front of real cloud and LLM credentials",
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			var level slog.Level
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				return fmt.Errorf("--log-level: %w", err)
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})))
			return nil
		},
	}
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &hinted{err, cmd.CommandPath() + " --help"}
	})
	cmd.PersistentFlags().StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	cmd.AddGroup(
		&cobra.Group{ID: "process", Title: "Processes:"},
		&cobra.Group{ID: "custody", Title: "Custody of the unseal key:"},
		&cobra.Group{ID: "admin", Title: "Administration (over the admin API):"},
	)
	add := func(group string, cmds ...*cobra.Command) {
		for _, c := range cmds {
			c.GroupID = group
			cmd.AddCommand(c)
		}
	}
	add("process", devCommand(), controlCommand(), bridgeCommand(), envoyCommand())
	add("custody", enrolCommand(), initCommand(), identityCommand(), keeperCommand(), rekeyCommand(), rotateKeyCommand(), verifyCommand(), backupCommand(), restoreCommand())
	add("admin", workspaceCommand(), connectorCommand(), credentialCommand(), repoCommand(), keyCommand(), tokenCommand(), nodeCommand(), syncCommand(), statusCommand())
	cmd.AddCommand(versionCommand(), envCommand(), auditCommand())
	polish(cmd)
	return cmd
}
