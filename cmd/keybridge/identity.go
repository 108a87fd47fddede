package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keybridge/keyshare/identity"
)

func identityCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "identity", Short: "A process's own key"}
	cmd.AddCommand(identityRotateCommand())
	return cmd
}

func identityRotateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make the key that is to replace this process's, and its enrolment",
		Long: `Makes identity.next.key beside identity.key and writes enrolment.json for it. The process
may be running, and needs no restart: once the operator has listed the enrolment in the manifest
("keybridge keeper enrol", "bridge enrol" or "control enrol") the process uses the next key, with
the old one still accepted, and once the operator has ended the old one (the same with --only) the
next key takes its file. Compare the printed fingerprint with the operator over a channel that you
trust. Run again it changes nothing.`,
		Example: "  keybridge identity rotate --dir /var/lib/keybridge-bridge",
		Args:    cobra.NoArgs,
	}
	dir := cmd.Flags().String("dir", "", "the process's state directory")
	required(cmd, "dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		e, err := rotate(*dir)
		if err != nil {
			return err
		}
		return printEnrolment(cmd, e, *dir)
	}
	return cmd
}

// rotate makes the next identity in dir and writes its enrolment over the old one,
// whose recipient a keeper keeps: its share is delivered there, whatever its identity.
func rotate(dir string) (e identity.Enrolment, err error) {
	id, err := identity.Load(filepath.Join(dir, identityFile))
	if err != nil {
		return e, err
	}
	raw, err := os.ReadFile(filepath.Join(dir, enrolmentFile))
	if err != nil {
		return e, fmt.Errorf("the enrolment that \"keybridge enrol\" wrote: %w", err)
	}
	old, err := identity.ParseEnrolment(raw)
	if err != nil {
		return e, fmt.Errorf("%s: %w", filepath.Join(dir, enrolmentFile), err)
	}
	next, err := id.Next()
	if err != nil {
		return e, err
	}
	if e, err = next.Enrolment(old.Recipient); err != nil {
		return e, err
	}
	return e, writeEnrolment(dir, e)
}
