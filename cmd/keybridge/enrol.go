package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
)

// Files of a process's state directory.
const (
	identityFile  = "identity.key"
	enrolmentFile = "enrolment.json"
)

func enrolCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "enrol",
		Short: "Make this host's identity, and the enrolment for the operator to sign",
		Long: `Makes an identity key that never leaves --dir, and writes enrolment.json beside it:
role, name and public key, for the operator to list in the manifest. Compare the
printed fingerprint with the operator over a channel that you trust.`,
		Example: `  keybridge enrol --role keeper --name keeper-1 --dir /var/lib/keybridge-keeper --key-file /media/usb/keeper-1.key
  keybridge enrol --role bridge --name bridge-1 --dir /var/lib/keybridge-bridge`,
		Args: cobra.NoArgs,
	}
	role := cmd.Flags().String("role", "", "keeper, bridge or control")
	name := cmd.Flags().String("name", "", "name in the manifest, e.g. keeper-1")
	dir := cmd.Flags().String("dir", "", "state directory, made 0700")
	lock := addLockFlags(cmd)
	required(cmd, "role", "name", "dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var l keeper.Lock
		if identity.Role(*role) == identity.RoleKeeper {
			if err := harden(true); err != nil {
				return err
			}
			var err error
			if l, err = lock.lock(cmd); err != nil {
				return err
			}
		}
		e, err := enrol(identity.Role(*role), *name, *dir, l)
		if err != nil {
			return err
		}
		return printEnrolment(cmd, e, *dir)
	}
	return cmd
}

// enrol makes a process's identity in dir and writes its enrolment beside it.
// lock is that of a keeper; the other roles have none.
func enrol(role identity.Role, name, dir string, lock keeper.Lock) (e identity.Enrolment, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return e, err
	}
	switch role {
	case identity.RoleKeeper:
		e, err = keeper.Enrol(dir, name, lock)
	case identity.RoleBridge, identity.RoleControl:
		var id *identity.Identity
		if id, err = identity.Create(filepath.Join(dir, identityFile), role, name); err == nil {
			e, err = id.Enrolment(nil)
		}
	default:
		err = fmt.Errorf("--role is keeper, bridge or control, not %q", role)
	}
	if err != nil {
		return e, err
	}
	return e, writeEnrolment(dir, e)
}

func writeEnrolment(dir string, e identity.Enrolment) error {
	raw, err := json.Marshal(e) // the canonical encoding: ParseEnrolment takes no other
	if err != nil {
		return err
	}
	return identity.WritePrivate(filepath.Join(dir, enrolmentFile), raw)
}

// printEnrolment says what the operator is to be told, and where the file is.
func printEnrolment(cmd *cobra.Command, e identity.Enrolment, dir string) error {
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s\nfingerprint %s\nenrolment   %s\n", e.Role, e.Name, e.Fingerprint(), filepath.Join(dir, enrolmentFile))
	return err
}
