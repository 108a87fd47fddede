package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/lockedmem"
	"keybridge/keyshare/quorum"
	"keybridge/xds/link"
)

const (
	// sessionLife bounds a ceremony; one that waits for bridges may be run again.
	sessionLife = 12 * time.Hour
	// sharesWithin is how long keepers have to give enough shares.
	sharesWithin = time.Minute
	// exitUnfinished is the status of a ceremony that is in force but not everywhere.
	exitUnfinished = exitStatus(3)
)

// deskFlags are those of every command that works on a custody in use.
type deskFlags struct {
	root, public, manifest, control, as *string
	keepers                             *[]string
	json                                *bool
	lock                                lockFlags
	// store and audit, where a command has them, stand in for a control plane.
	store, audit *string
}

func addDeskFlags(cmd *cobra.Command) deskFlags {
	f := cmd.Flags()
	return deskFlags{
		root:     f.String("root", rootPrivateFile, "private half of the operator root"),
		public:   f.String("operator-root", "", "public half of the operator root; default: "+rootPublicFile+" beside --root"),
		manifest: f.String("manifest", "", "signed manifest, replaced by newer ones; default: "+manifestFile+" beside --root"),
		control:  f.String("control", "", "control plane's address for bridges, host:port"),
		as:       f.String("as", "operator", "who the audit logs are to name"),
		keepers:  f.StringArray("keeper", nil, "keeper as name=host:port; repeat"),
		json:     f.Bool("json", false, "print one JSON object a line: each step, then the result"),
		lock:     addLockFlags(cmd),
	}
}

func addDryRunFlag(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("dry-run", false, "check everything that can be checked, and change nothing")
}

// desk is an operator's place for one ceremony.
type desk struct {
	*ceremony.Operator
	link     link.CustodianClient
	print    printer
	manifest string // file
	known    []byte // what was in it
	closed   []func()

	addresses map[string]string // of keepers
}

// save keeps the newest manifest for the next command.
func (d *desk) save() error {
	if signed := d.Trust.Signed(); !bytes.Equal(signed, bytes.TrimSpace(d.known)) {
		return identity.WritePrivate(d.manifest, signed)
	}
	return nil
}

// toldLater says that a keeper which left could not be told, and may be next time: the
// file with the old manifest then says which key it has.
func (d *desk) toldLater(out *ceremony.Outcome) bool {
	for name := range out.Untold {
		if _, ok := d.addresses[name]; ok {
			return true
		}
	}
	return false
}

func (d *desk) close() {
	for _, f := range slices.Backward(d.closed) {
		f()
	}
}

// open reads the root, makes a session by it and knows how to reach everybody.
func (f deskFlags) open(cmd *cobra.Command) (_ *desk, err error) {
	d := &desk{print: printer{out: cmd.OutOrStdout(), progress: cmd.ErrOrStderr(), json: *f.json}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	addresses, err := pairs("keeper", *f.keepers)
	if err != nil {
		return nil, err
	}
	d.addresses = addresses
	if err := harden(false); err != nil {
		return nil, err
	}
	d.closed = append(d.closed, lockedmem.Purge)
	lock, err := f.lock.lock(cmd)
	if err != nil {
		return nil, err
	}
	beside := func(flag *string, file string) string {
		if *flag != "" {
			return *flag
		}
		return filepath.Join(filepath.Dir(*f.root), file)
	}
	public, err := readRoot(beside(f.public, rootPublicFile))
	if err != nil {
		return nil, err
	}
	arena, err := lockedmem.NewArena()
	if err != nil {
		return nil, err
	}
	root, session, err := openRoot(arena, lock, *f.root, public, *f.as)
	if err != nil {
		return nil, err
	}
	trust := identity.NewTrust(public)
	d.manifest = beside(f.manifest, manifestFile)
	if d.known, err = os.ReadFile(d.manifest); err != nil {
		return nil, &hinted{err, "`keybridge init` wrote the first manifest; --manifest names it"}
	}
	if _, err := trust.Update(d.known); err != nil {
		return nil, fmt.Errorf("%s: %w", d.manifest, err)
	}
	custodian, err := f.custodian(d, session, trust, public)
	if err != nil {
		return nil, err
	}
	d.Operator = &ceremony.Operator{
		Root: root.Bytes(), Trust: trust, Custodian: custodian, Keepers: quorum.NewOperator(session, trust, addresses),
		Progress: func(s ceremony.Step) error {
			d.print.step(s)
			return cmd.Context().Err()
		},
		Unseal: func(ctx context.Context, reason string, use func(u []byte) error) error {
			ctx, cancel := context.WithTimeout(ctx, sharesWithin)
			defer cancel()
			known := map[string]string{}
			for _, k := range trust.Manifest().Keepers { // the others' addresses are of keepers to come
				if addr, ok := addresses[k.Name]; ok {
					known[k.Name] = addr
				}
			}
			return quorum.Unseal(ctx, quorum.Config{
				Identity: session, Trust: trust, Keepers: known, Reason: reason,
				Report: func(r quorum.KeeperReport) {
					d.print.step(ceremony.Step{Step: "share", Keeper: r.Keeper, Detail: joined(string(r.State), r.Detail)})
				},
			}, use)
		},
	}
	return d, nil
}

// custodian is the control plane, or the store that a command may be given instead.
func (f deskFlags) custodian(d *desk, session *identity.Identity, trust *identity.Trust, public ed25519.PublicKey) (ceremony.Custodian, error) {
	if f.store != nil && *f.store != "" {
		return d.openStore(*f.store, *f.audit, public, session)
	}
	if *f.control == "" {
		return nil, errors.New("--control is missing: where the control plane listens for bridges, host:port")
	}
	conn, err := grpc.NewClient(*f.control, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(session, trust, identity.RoleControl, ""))))
	if err != nil {
		return nil, err
	}
	d.closed = append(d.closed, func() { _ = conn.Close() })
	d.link = link.NewCustodianClient(conn)
	return custodianClient{d.link}, nil
}

// openRoot decrypts the operator root into locked memory and makes a session by it.
func openRoot(arena *lockedmem.Arena, lock keeper.Lock, path string, public ed25519.PublicKey, as string) (root lockedmem.Secret, session *identity.Identity, err error) {
	lockedmem.Do(func() {
		var text []byte
		if text, err = lock.Open(path); err != nil {
			return
		}
		defer lockedmem.Wipe(text)
		block, _ := pem.Decode(text)
		if block == nil {
			err = fmt.Errorf("%s: not a PEM file", path)
			return
		}
		defer lockedmem.Wipe(block.Bytes)
		parsed, perr := x509.ParsePKCS8PrivateKey(block.Bytes)
		key, ok := parsed.(ed25519.PrivateKey)
		if perr != nil || !ok { // the parser's text could quote the key
			err = fmt.Errorf("%s: not an Ed25519 key in PKCS #8", path)
			return
		}
		if !public.Equal(key.Public()) {
			lockedmem.Wipe(key)
			err = fmt.Errorf("%s is not the private half of --operator-root", path)
			return
		}
		if session, err = identity.NewOperatorSession(key, as, sessionLife); err != nil {
			lockedmem.Wipe(key)
			return
		}
		root, err = arena.Copy(key) // and wipes it
	})
	return root, session, err
}

// custodianClient is the control plane as ceremonies know it.
type custodianClient struct{ link link.CustodianClient }

func (c custodianClient) Custody(ctx context.Context) (*ceremony.Custody, error) {
	r, err := c.link.Custody(ctx, &link.CustodianRequest{})
	if err != nil {
		return nil, err
	}
	return custodyOf(r), nil
}

func custodyOf(r *link.CustodianState) *ceremony.Custody {
	out := &ceremony.Custody{Manifest: r.Manifest, Keyring: r.Keyring, Records: r.Records}
	for _, b := range r.Bridges {
		out.Bridges = append(out.Bridges, ceremony.BridgeState{Name: b.Name, Connected: b.Connected, SealingKeys: b.SealingKeys})
	}
	return out
}

func (c custodianClient) Stage(ctx context.Context, keyring []byte) error {
	_, err := c.link.Stage(ctx, &link.StageKeyringRequest{Keyring: keyring})
	return err
}

func (c custodianClient) Commit(ctx context.Context, manifest []byte, verb string) error {
	_, err := c.link.Commit(ctx, &link.CommitRequest{Manifest: manifest, Verb: verb})
	return err
}

// printer shows what a ceremony does: as JSON lines, or steps on standard error and
// the result on standard output.
type printer struct {
	out, progress io.Writer
	json          bool
}

func (p printer) line(v any) error {
	e := json.NewEncoder(p.out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

func (p printer) step(s ceremony.Step) {
	if p.json {
		_ = p.line(s) // the result, which follows, will fail as well
		return
	}
	fmt.Fprintln(p.progress, printable("  "+joined(joinedWord(s.Step, s.Keeper), s.Detail)))
}

func joined(what, detail string) string {
	if detail == "" {
		return what
	}
	return what + ": " + detail
}

func joinedWord(a, b string) string {
	if b == "" {
		return a
	}
	return a + " " + b
}

// result is the last JSON line of a command.
type result struct {
	Result string `json:"result"` // done, planned, unfinished or failed
	*ceremony.Outcome
	Error string `json:"error,omitempty"`
}

// finish says where a ceremony has come to, and by its error how to exit. again is
// what to do where it did not come to its end.
func (p printer) finish(out *ceremony.Outcome, err error, sentence string) error {
	const again = "run the same command again: it goes on from where this one stopped"
	if err != nil {
		if p.json {
			if perr := p.line(result{Result: "failed", Error: err.Error()}); perr != nil {
				return perr
			}
			return exitStatus(1)
		}
		return &hinted{err, again}
	}
	r := result{Result: "done", Outcome: out}
	switch {
	case out.DryRun:
		r.Result = "planned"
	case len(out.Unfinished) > 0:
		r.Result = "unfinished"
	}
	if p.json {
		err = p.line(r)
	} else {
		err = p.sentences(r, sentence, again)
	}
	if err == nil && r.Result == "unfinished" {
		err = exitUnfinished
	}
	return err
}

func (p printer) sentences(r result, sentence, again string) error {
	switch {
	case r.DryRun:
		sentence = "dry run: nothing was changed"
	case r.Resumed:
		sentence = "in force already, by an earlier run, and finished by this one"
	}
	_, err := fmt.Fprintf(p.out, "%s: %s\nmanifest version %d, epoch %d, %d of %d keepers open\n",
		r.Verb, printable(sentence), r.Version, r.Epoch, r.Threshold, r.Shares)
	for _, name := range slices.Sorted(maps.Keys(r.Unfinished)) {
		_, perr := fmt.Fprintf(p.out, "keeper %s is not up to date: %s\n", name, printable(r.Unfinished[name]))
		err = errors.Join(err, perr)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Untold)) {
		_, perr := fmt.Fprintf(p.out, "keeper %s has left and was not told, so that it keeps its share, which opens nothing: %s\n", name, printable(r.Untold[name]))
		err = errors.Join(err, perr)
	}
	if r.Result == "unfinished" {
		_, perr := fmt.Fprintf(p.out, "it is in force; to finish it there, %s\n", again)
		err = errors.Join(err, perr)
	}
	return err
}

// ceremonyCommand is a command that is one ceremony.
func ceremonyCommand(cmd *cobra.Command, done string, run func(ctx context.Context, d *desk, args []string) (*ceremony.Outcome, error)) *cobra.Command {
	return newCeremonyCommand(cmd, done, false, run)
}

// newCeremonyCommand makes one that, if it may be offline, also works on a store.
func newCeremonyCommand(cmd *cobra.Command, done string, offline bool, run func(ctx context.Context, d *desk, args []string) (*ceremony.Outcome, error)) *cobra.Command {
	f, dryRun := addDeskFlags(cmd), addDryRunFlag(cmd)
	if offline {
		f.store = cmd.Flags().String("store", "", "the embedded store itself, in place of --control, while no control plane runs")
		f.audit = cmd.Flags().String("audit", "", "with --store: audit log of the control plane that will run; default: audit.log beside --store")
		cmd.MarkFlagsMutuallyExclusive("control", "store")
		cmd.MarkFlagsOneRequired("control", "store")
	} else {
		required(cmd, "control")
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer d.close()
		d.DryRun = *dryRun
		out, err := run(cmd.Context(), d, args)
		if err == nil && !*dryRun && !d.toldLater(out) {
			err = d.save()
		}
		return d.print.finish(out, err, done)
	}
	return cmd
}

// ceremonyHelp is the part that all ceremonies' help has in common.
const ceremonyHelp = `It may be stopped at any moment, also by kill -9 or a power cut: what is in force
stays usable, and the same command again finishes it. Exit status 0: done; 1: not
done, nothing new is in force unless the message says so; 3: in force, but a keeper
could not be told: run it again once that one answers.`

func readEnrolment(path string) (identity.Enrolment, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return identity.Enrolment{}, err
	}
	e, err := identity.ParseEnrolment(raw)
	if err != nil {
		return e, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}
