package main

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/audit"
)

// auditCommand reads audit logs where they lie: no process needs to run.
func auditCommand() *cobra.Command {
	cmd := group("audit", "Check and read the control plane's audit log, offline")
	cmd.AddCommand(auditVerifyCommand(), auditExportCommand())
	return cmd
}

func auditVerifyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check an audit log's chain of hashes, and name the first line that is wrong",
		Long: `Reads the whole log, - for standard input, and prints its head: the number of
lines and the hash of the last one. No key is needed. A head that was noted earlier,
somewhere else than on this machine, also shows a log that was cut or rewritten as a
whole. The control plane may be running; a line that it is just writing is then
reported as one without an end.`,
		Example: `  keybridge audit verify /var/lib/keybridge/audit.log
  keybridge audit verify audit.log --head 1204:5f0c9f…`,
		Args: cobra.ExactArgs(1),
	}
	heads := cmd.Flags().StringArray("head", nil, "a head, LINES:HASH, that the log had once and must have still; repeat")
	asJSON := cmd.Flags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		known, err := parseHeads(*heads)
		if err != nil {
			return err
		}
		in, err := openLog(cmd, args[0])
		if err != nil {
			return err
		}
		defer in.Close()
		head, err := audit.Verify(in, known...)
		var bad *audit.LineError
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		if *asJSON {
			answer := verified{OK: err == nil, Lines: head.Lines, Hash: head.Hash}
			if err != nil {
				answer.BadLine, answer.Problem = bad.Line, bad.Err.Error()
			}
			if jerr := writeJSON(cmd.OutOrStdout(), answer); jerr != nil || err == nil {
				return jerr
			}
			return exitStatus(1)
		}
		if err != nil {
			return fmt.Errorf("%s: %w; up to there %s, head %s", args[0], err, goodLines(head.Lines), head)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\nhead %s\n", goodLines(head.Lines), head)
		return err
	}
	return cmd
}

func goodLines(n uint64) string { return plural(int(n), "good line") }

// verified is what verify prints as JSON: the head of what is good, and the first line that is not.
type verified struct {
	OK      bool   `json:"ok"`
	Lines   uint64 `json:"lines"`
	Hash    string `json:"hash"`
	BadLine uint64 `json:"badLine,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func auditExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export FILE",
		Short: "Print the events of an audit log, oldest first, as JSON lines or CSV",
		Long: `Checks the log, - for standard input, while it reads, and stops at the first line
that is wrong. JSON lines are those of the log, unchanged, each with its hash; in CSV a
cell that a spreadsheet would compute begins with an apostrophe.`,
		Example: `  keybridge audit export /var/lib/keybridge/audit.log --from 2026-01-01 --to 2026-02-01 --format csv > january.csv
  keybridge audit export audit.log --context key --event deleted`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	from := f.String("from", "", "the earliest time: RFC 3339, or a date for its beginning in UTC")
	to := f.String("to", "", "the time before which events end, likewise")
	format := f.String("format", string(audit.JSON), "json or csv")
	filter := audit.Filter{}
	f.StringVar(&filter.Context, "context", "", "only events of this kind of thing, e.g. connector")
	f.StringVar(&filter.Event, "event", "", "only what happened so, e.g. created")
	f.StringVar(&filter.ContextID, "id", "", "only events of the thing with this id")
	f.StringVar(&filter.UserID, "user", "", "only what the token with this id did")
	f.StringVar(&filter.WorkspaceID, "workspace-id", "", "only events of this workspace")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		filter := filter
		if filter.From, err = parseTime("from", *from); err != nil {
			return err
		}
		if filter.To, err = parseTime("to", *to); err != nil {
			return err
		}
		in, err := openLog(cmd, args[0])
		if err != nil {
			return err
		}
		defer in.Close()
		out := bufio.NewWriter(cmd.OutOrStdout())
		n, err := audit.Export(out, in, audit.Format(*format), filter)
		if ferr := out.Flush(); ferr != nil {
			return ferr
		}
		if err != nil {
			return fmt.Errorf("%s: after %s: %w", args[0], plural(n, "event"), err)
		}
		return nil
	}
	return cmd
}

func openLog(cmd *cobra.Command, path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(cmd.InOrStdin()), nil
	}
	return os.Open(path)
}

func parseHeads(values []string) (out []audit.Head, err error) {
	for _, v := range values {
		lines, hash, ok := strings.Cut(v, ":")
		n, err := strconv.ParseUint(lines, 10, 64)
		raw, herr := hex.DecodeString(hash)
		if !ok || err != nil || herr != nil || n == 0 && hash != "" || n > 0 && len(raw) != 32 {
			return nil, fmt.Errorf("--head wants LINES:HASH as `keybridge audit verify` prints it, not %q", v)
		}
		out = append(out, audit.Head{Lines: n, Hash: strings.ToLower(hash)})
	}
	return out, nil
}

func parseTime(flag, value string) (time.Time, error) {
	if value == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, value); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("--%s wants a time such as 2026-01-31T12:00:00Z or a date such as 2026-01-31, not %q", flag, value)
}
