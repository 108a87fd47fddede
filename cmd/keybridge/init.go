package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/keyshare/ceremony"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/keeper"
	"keybridge/keyshare/lockedmem"
	"keybridge/store"
	"keybridge/store/api"
	"keybridge/store/bolt"
)

// Files that init leaves in its output directory.
const (
	rootPublicFile  = "root.pub"
	rootPrivateFile = "root.key.age"
	manifestFile    = "manifest.json"
)

func deliveryFile(keeper string) string { return keeper + ".delivery" }

func initCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the operator root, the unseal key and its shares, and the signed manifest",
		Long: `Runs once, where the operator is, best on a machine without a network. Makes the
unseal key and splits it into one share per keeper, sealed to that keeper; makes
the keyring; signs the manifest of all enrolments; and writes manifest and wrapped
keyring to the store. Neither unseal key nor shares are written anywhere.

Afterwards take root.key.age offline: it signs every later manifest.`,
		Example: `  keybridge init --out ceremony --store keybridge.db --key-file root.key --threshold 2 \
    --enrolment k1.json --enrolment k2.json --enrolment k3.json --enrolment bridge-1.json --enrolment control.json`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	files := f.StringArray("enrolment", nil, "enrolment.json of a keeper, bridge or control plane; repeat")
	threshold := f.Int("threshold", 2, "how many shares recover the unseal key")
	out := f.String("out", "", "directory for root, manifest and deliveries, made 0700")
	path := f.String("store", "", "embedded store to write to; made if it does not exist")
	workspaces := f.StringArray("workspaces", nil, "workspaces of a bridge as NAME=UUID,UUID; default: all; repeat")
	tokenFile := f.String("admin-token-file", "", "write the first admin token here instead of printing it")
	dryRun := cmd.Flags().Bool("dry-run", false, "go through all of it in memory, and write nothing")
	asJSON := cmd.Flags().Bool("json", false, "print one JSON object a line: each step, then the result")
	lock := addLockFlags(cmd)
	required(cmd, "enrolment", "out", "store")

	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := harden(false); err != nil {
			return err
		}
		defer lockedmem.Purge()
		l, err := lock.lock(cmd)
		if err != nil {
			return err
		}
		p := printer{out: cmd.OutOrStdout(), progress: cmd.ErrOrStderr(), json: *asJSON}
		cfg := ceremony.InitConfig{Threshold: *threshold, Workspaces: map[string][]string{}, Progress: func(s ceremony.Step) error {
			p.step(s)
			return cmd.Context().Err()
		}}
		scopes, err := pairs("workspaces", *workspaces)
		if err != nil {
			return err
		}
		for bridge, list := range scopes {
			cfg.Workspaces[bridge] = strings.Split(list, ",")
		}
		for _, file := range *files {
			e, err := readEnrolment(file)
			if err != nil {
				return err
			}
			addEnrolment(&cfg, e)
		}
		if *dryRun {
			if _, err := os.Stat(*path); !errors.Is(err, os.ErrNotExist) {
				return errors.Join(fmt.Errorf("%s is there already: a dry run looks at none that is in use", *path), err)
			}
			r, err := ceremony.Init(cfg)
			if err != nil {
				return err
			}
			defer r.Wipe()
			return p.initialised("planned", *out, "")
		}
		token, err := initialise(cmd.Context(), cfg, l, *out, *path)
		if err != nil {
			return err
		}
		if *tokenFile != "" {
			if err := identity.WritePrivate(*tokenFile, []byte(token+"\n")); err != nil {
				return err
			}
			token = ""
		}
		return p.initialised("done", *out, token)
	}
	return cmd
}

// initialised is the result of init; token is empty where it is not to be shown.
func (p printer) initialised(result, out, token string) error {
	if p.json {
		fields := map[string]any{"result": result, "verb": "init", "version": 1, "epoch": 1, "out": out}
		if token != "" {
			fields["adminToken"] = token
		}
		return p.line(fields)
	}
	text := ""
	switch {
	case result == "planned":
		text = "dry run: nothing was written\n"
	case token != "":
		text = "admin token, shown this once: " + token + "\n"
	}
	_, err := io.WriteString(p.out, text)
	return err
}

func addEnrolment(cfg *ceremony.InitConfig, e identity.Enrolment) {
	switch e.Role {
	case identity.RoleKeeper:
		cfg.Keepers = append(cfg.Keepers, e)
	case identity.RoleBridge:
		cfg.Bridges = append(cfg.Bridges, e)
	case identity.RoleControl:
		cfg.ControlPlanes = append(cfg.ControlPlanes, e)
	}
}

// initialise runs the ceremony, writes what it made to out and the store, and
// returns the first admin token. A store that has been initialised is left alone.
func initialise(ctx context.Context, cfg ceremony.InitConfig, lock keeper.Lock, out, path string) (token string, err error) {
	records, err := bolt.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, records.Close()) }()
	if _, err := records.Get(ctx, store.KindCustody, store.CustodyID); !errors.Is(err, store.ErrNotFound) {
		return "", errors.Join(fmt.Errorf("%s is initialised already: another `init` would orphan what is sealed in it", path), err)
	}
	r, err := ceremony.Init(cfg)
	if err != nil {
		return "", err
	}
	defer r.Wipe()
	if err := writeCeremony(r, lock, out); err != nil {
		return "", err
	}
	token, admin, err := api.NewToken("first admin", map[string]store.Access{"*": store.AccessAdmin})
	if err != nil {
		return "", err
	}
	// The custody is written last, and with the token or not at all: it is what makes the store initialised.
	_, err = records.Apply(ctx,
		store.Put(admin),
		store.Put(&store.Custody{M: store.Meta{ID: store.CustodyID}, Manifest: r.Manifest, Keyring: r.Keyring}))
	return token, err
}

func writeCeremony(r *ceremony.InitResult, lock keeper.Lock, out string) error {
	if err := os.MkdirAll(out, 0o700); err != nil {
		return err
	}
	private, err := pkcs8(r.RootPrivate)
	if err != nil {
		return err
	}
	defer lockedmem.Wipe(private)
	if err := lock.Save(filepath.Join(out, rootPrivateFile), private); err != nil {
		return fmt.Errorf("operator root: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(r.RootPublic)
	if err != nil {
		return err
	}
	files := map[string][]byte{
		rootPublicFile: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		manifestFile:   r.Manifest,
	}
	for name, delivery := range r.Deliveries {
		files[deliveryFile(name)] = delivery
	}
	for name, data := range files {
		if err := identity.WritePrivate(filepath.Join(out, name), data); err != nil {
			return err
		}
	}
	return nil
}

func pkcs8(key ed25519.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	defer lockedmem.Wipe(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
