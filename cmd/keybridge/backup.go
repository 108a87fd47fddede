package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"keybridge/keyshare"
	"keybridge/store"
	"keybridge/store/bolt"
	"keybridge/xds/link"
)

// A backup is JSON lines: a header, one line a record, and a last line with the number
// of records, without which the file is not whole.
type backupLine struct {
	Format  int             `json:"keybridgeBackup,omitempty"`
	Kind    string          `json:"kind,omitempty"`
	Record  json.RawMessage `json:"record,omitempty"`
	Records *uint64         `json:"records,omitempty"`
}

// maxBackupLine bounds a line: the custody, with two keyrings of 1 MiB and a manifest.
const maxBackupLine = 16 << 20

func backupCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup",
		Short: "Write every record of the store to a file, sealed as it is",
		Long: `Reads over the control plane's port for bridges, while everything runs. What is
secret in the file is sealed, as in the store: it opens only with a threshold of
keepers. --out is written in one step, mode 0600.`,
		Example: `  keybridge backup --out keybridge.backup --root root.key.age --key-file root.key --control control.internal:7443`,
		Args:    cobra.NoArgs,
	}
	out := cmd.Flags().String("out", "", "file to write")
	f := addDeskFlags(cmd)
	required(cmd, "out", "control")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		d, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer d.close()
		n, err := d.backup(cmd.Context(), *out)
		return d.print.records(err, map[string]any{"verb": "backup", "records": n, "file": *out},
			"%s in %s", plural(int(n), "record"), *out)
	}
	return cmd
}

// records is the result of backup and restore.
func (p printer) records(err error, fields map[string]any, format string, args ...any) error {
	switch {
	case err != nil && p.json:
		return errors.Join(p.line(map[string]any{"result": "failed", "verb": fields["verb"], "error": err.Error()}), exitStatus(1))
	case err != nil:
		return err
	case p.json:
		fields["result"] = "done"
		return p.line(fields)
	}
	_, err = fmt.Fprintln(p.out, printable(fmt.Sprintf(format, args...)))
	return err
}

func (d *desk) backup(ctx context.Context, path string) (n uint64, err error) {
	stream, err := d.link.Backup(ctx, &link.BackupRequest{})
	if err != nil {
		return 0, err
	}
	out, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close(), os.Remove(out.Name()))
		}
	}()
	w := bufio.NewWriter(out)
	lines := json.NewEncoder(w)
	if err := lines.Encode(backupLine{Format: 1}); err != nil {
		return 0, err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, err
		}
		if err := lines.Encode(backupLine{Kind: r.Kind, Record: r.Record}); err != nil {
			return n, err
		}
		n++
	}
	if err := lines.Encode(backupLine{Records: &n}); err != nil {
		return n, err
	}
	if err := w.Flush(); err != nil {
		return n, err
	}
	if err := out.Sync(); err != nil {
		return n, err
	}
	if err := out.Close(); err != nil {
		return n, err
	}
	return n, os.Rename(out.Name(), path)
}

// readBackup yields the records of a backup, after it has made sure that all are there.
func readBackup(path string) iter.Seq2[*link.BackupRecord, error] {
	return func(yield func(*link.BackupRecord, error) bool) {
		for _, give := range []bool{false, true} {
			if err := scanBackup(path, func(r *link.BackupRecord) bool { return !give || yield(r, nil) }); err != nil {
				yield(nil, fmt.Errorf("%s: %w", path, err))
				return
			}
		}
	}
}

func scanBackup(path string, each func(*link.BackupRecord) bool) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxBackupLine)
	n, first := uint64(0), true
	for lines.Scan() {
		var l backupLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("record %d: not a line of a backup: %w", n+1, err)
		}
		switch {
		case first && l.Format != 1:
			return errors.New("not a backup that this version of keybridge reads")
		case first:
			first = false
		case l.Records != nil && *l.Records == n && !lines.Scan():
			return lines.Err()
		case l.Kind == "":
			return fmt.Errorf("record %d: not a line of a backup", n+1)
		default:
			n++
			if !each(&link.BackupRecord{Kind: l.Kind, Record: bytes.Clone(l.Record)}) {
				return nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("it ends after %s, without its last line: it is not whole", plural(int(n), "record"))
}

func restoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "restore",
		Short: "Take records of a backup back into the store",
		Long: `Over the control plane, while it runs: records that the store does not have come
back, and those that the backup has in a newer version; what was deleted stays deleted.
Of manifest and keyring the newer ones stay in force, so that old records open with the
newest keyring. Running it again does no harm.

With --store, for a store that was lost: writes the whole backup, its manifest and
keyring too, to a new file, while no control plane runs. Only --operator-root is needed
then. Restart the bridges afterwards if the store is older than what they have seen.`,
		Example: `  keybridge restore --from keybridge.backup --root root.key.age --key-file root.key --control control.internal:7443
  keybridge restore --from keybridge.backup --store keybridge.db --operator-root root.pub`,
		Args: cobra.NoArgs,
	}
	from := cmd.Flags().String("from", "", "file that `keybridge backup` wrote")
	path := cmd.Flags().String("store", "", "new embedded store to write to, instead of a control plane's")
	f, dryRun := addDeskFlags(cmd), addDryRunFlag(cmd)
	required(cmd, "from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if (*path == "") == (*f.control == "") {
			return errors.New("give either --control or --store")
		}
		d := &desk{print: printer{out: cmd.OutOrStdout(), progress: cmd.ErrOrStderr(), json: *f.json}}
		var restored, kept uint64
		var err error
		switch {
		case *dryRun:
			for _, rerr := range readBackup(*from) {
				if err = rerr; err == nil {
					restored++
				}
			}
			return d.print.records(err, map[string]any{"verb": "restore", "dryRun": true, "records": restored}, "dry run: the backup is whole, with %s", plural(int(restored), "record"))
		case *path != "":
			restored, err = restoreFile(cmd.Context(), *f.public, *path, *from)
		default:
			if d, err = f.open(cmd); err != nil {
				return err
			}
			defer d.close()
			restored, kept, err = d.restore(cmd.Context(), *from)
		}
		return d.print.records(err, map[string]any{"verb": "restore", "restored": restored, "kept": kept},
			"%s restored, %d in the store already", plural(int(restored), "record"), kept)
	}
	return cmd
}

func (d *desk) restore(ctx context.Context, path string) (restored, kept uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := d.link.Restore(ctx)
	if err != nil {
		return 0, 0, err
	}
	for r, err := range readBackup(path) {
		if err != nil {
			return 0, 0, err
		}
		if err := stream.Send(r); errors.Is(err, io.EOF) {
			break // CloseAndRecv says why
		} else if err != nil {
			return 0, 0, err
		}
	}
	res, err := stream.CloseAndRecv()
	return res.GetRestored(), res.GetKept(), err
}

// restoreFile makes a store of a backup.
func restoreFile(ctx context.Context, root, path, from string) (n uint64, err error) {
	public, err := readRoot(root)
	if err != nil {
		return 0, err
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return 0, errors.Join(fmt.Errorf("%s is there already: give the backup to its control plane by --control", path), err)
	}
	partial := path + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return 0, err
	}
	records, err := bolt.Open(partial)
	if err != nil {
		return 0, err
	}
	n, err = restoreInto(ctx, records, public, from)
	if err := errors.Join(err, records.Close()); err != nil {
		return n, errors.Join(err, os.Remove(partial))
	}
	return n, os.Rename(partial, path)
}

func restoreInto(ctx context.Context, records store.Store, root []byte, from string) (n uint64, err error) {
	safe, custody := &custodySafe{store: records}, false
	for r, err := range readBackup(from) {
		if err != nil {
			return n, err
		}
		kept, is, err := safe.Custody(r)
		if err != nil {
			return n, err
		}
		if !is {
			if _, err := safe.Restore(ctx, r); err != nil {
				return n, err
			}
			n++
			continue
		}
		if _, err := keyshare.Verify(root, kept.Manifest); err != nil {
			return n, fmt.Errorf("the backup's manifest: %w", err)
		}
		if err := safe.Keep(ctx, kept); err != nil {
			return n, err
		}
		n, custody = n+1, true
	}
	if !custody {
		return n, errors.New("the backup has no manifest")
	}
	return n, nil
}
