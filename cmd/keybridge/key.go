package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func keyCommand() *cobra.Command {
	cmd := group("key", "Repository keys: what applications hold")
	s := keyScope{addScopeFlags(cmd), cmd.PersistentFlags().String("repo", "", "repository, by name or id (default: the only one)")}
	complete(cmd, "repo", s.repoNames, s.scope)
	cmd.AddCommand(keyCreateCommand(s), keyListCommand(s), keyRotateCommand(s), keySwitchCommand(s, true), keySwitchCommand(s, false), keyDeleteCommand(s))
	return cmd
}

// keyScope is a scope narrowed to one repository.
type keyScope struct {
	scope
	repo *string
}

// key is a repository key of either kind, as lists show it.
type key struct {
	client.Key
	Kind string `json:"kind"` // S3 or AI
}

func (k key) ai() bool { return k.Kind == "AI" }

// can is what a key is for, in one word.
func (k key) can() string { return k.AccessType + k.AIType }

func keysOf(r client.Repo) []key {
	all := make([]key, 0, len(r.StorageKeys)+len(r.AIKeys))
	for _, k := range r.StorageKeys {
		all = append(all, key{k, "S3"})
	}
	for _, k := range r.AIKeys {
		all = append(all, key{k, "AI"})
	}
	return all
}

func (s keyScope) in(cmd *cobra.Command) (*tenant, client.Repo, error) {
	t, err := s.scope.in(cmd)
	if err != nil {
		return nil, client.Repo{}, err
	}
	if *s.repo != "" {
		r, err := t.repo(cmd.Context(), *s.repo)
		return t, r, err
	}
	all, err := t.Repos(cmd.Context(), t.id)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("workspace %s has %s: name one with --repo", t.name, plural(len(all), "repository"))
	}
	if err != nil {
		return nil, client.Repo{}, err
	}
	return t, all[0], nil
}

// one finds a key of the repository by its name, public id or record id.
func (s keyScope) one(cmd *cobra.Command, name string) (*tenant, client.Repo, key, error) {
	t, r, err := s.in(cmd)
	if err != nil {
		return nil, r, key{}, err
	}
	k, err := pick("key", name, keysOf(r), func(k key) []string { return []string{k.ID, k.Name, k.Key.Key} })
	return t, r, k, err
}

func (s keyScope) keyNames(ctx context.Context, c *client.Client, _ []string) (names []string, err error) {
	repos, err := c.Repos(ctx, s.workspaceID(ctx, c))
	for _, r := range repos {
		if *s.repo == "" || *s.repo == r.Name || *s.repo == r.ID {
			for _, k := range keysOf(r) {
				names = append(names, k.Name)
			}
		}
	}
	return names, err
}

func keyCreateCommand(s keyScope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create", Short: "Make a key and print its secret, this once", Args: cobra.NoArgs,
		Long: `Makes a key and prints its secret. Nobody can show it again: not the control plane,
which keeps it sealed, nor its database.`,
		Example: `  keybridge key create --repo web --name web-1 --access READ
  keybridge key create --repo web --name bot --ai --expires-in 720h
  eval "$(keybridge key create --repo web --name web-1 --access READ --env)"   # into this shell's environment`,
	}
	name := cmd.Flags().String("name", "", "what the key is for")
	access := cmd.Flags().String("access", "READ", "storage keys: READ, WRITE or ADMIN")
	ai := cmd.Flags().Bool("ai", false, "make an AI key")
	aiType := cmd.Flags().String("ai-type", "OPENAI", "AI keys: OPENAI, ANTHROPIC or OTHER")
	ttl := cmd.Flags().Duration("expires-in", 0, "how long the key is good for, e.g. 720h; 0: for ever")
	env := cmd.Flags().Bool("env", false, "print as the environment variables that SDKs read")
	oneOf(cmd, "access", "READ", "WRITE", "ADMIN")
	oneOf(cmd, "ai-type", "OPENAI", "ANTHROPIC", "OTHER")
	required(cmd, "name")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *env && *s.json {
			return errors.New("--env and --json: choose one")
		}
		if *ttl < 0 {
			return errors.New("--expires-in lies in the past")
		}
		t, r, err := s.in(cmd)
		if err != nil {
			return err
		}
		spec := client.KeySpec{Name: *name, ExpiresAt: after(*ttl)}
		var issued client.IssuedKey
		if *ai {
			spec.AIType = *aiType
			issued, err = t.CreateAIKey(cmd.Context(), r.ID, spec)
		} else {
			spec.AccessType = *access
			issued, err = t.CreateStorageKey(cmd.Context(), r.ID, spec)
		}
		if err != nil {
			return err
		}
		return s.show(cmd, issued, spec.AIType, *env)
	}
	return cmd
}

// show prints a new key: the one place where a repository key's secret is shown.
func (s keyScope) show(cmd *cobra.Command, k client.IssuedKey, aiType string, env bool) error {
	defer clear(k.Secret)
	out := cmd.OutOrStdout()
	switch {
	case *s.json:
		return writeJSON(out, map[string]string{"id": k.ID, "key": k.Key, "secret": string(k.Secret)})
	case env && aiType == "ANTHROPIC":
		_, err := fmt.Fprintf(out, "export ANTHROPIC_API_KEY=%s\n", string(k.Secret))
		return err
	case env && aiType != "":
		_, err := fmt.Fprintf(out, "export OPENAI_API_KEY=%s\n", string(k.Secret))
		return err
	case env:
		_, err := fmt.Fprintf(out, "export AWS_ACCESS_KEY_ID=%s AWS_SECRET_ACCESS_KEY=%s\n", k.Key, string(k.Secret))
		return err
	}
	if err := table(out, [][]string{{"id", k.ID}, {"key", k.Key}, {"secret", string(k.Secret)}}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(cmd.ErrOrStderr(), "The secret is shown this once.")
	return err
}

func keyListCommand(s keyScope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List keys, without their secrets", Args: cobra.NoArgs,
		Example: "  keybridge key list --workspace team-a --repo web\n  keybridge key list --repo web --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, r, err := s.in(cmd)
			if err != nil {
				return err
			}
			all := keysOf(r)
			var rows [][]string
			for _, k := range all {
				rows = append(rows, []string{k.Name, k.Kind, k.can(), k.Key.Key, enabled(!k.Disabled), expiry(k.ExpiresAt, time.Now()), k.ID})
			}
			return s.print(cmd, all, "NAME KIND ACCESS KEY STATE EXPIRES ID", rows)
		},
	}
}

// maxOverlap is the admin API's.
const maxOverlap = 30 * 24 * time.Hour

func keyRotateCommand(s keyScope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "rotate NAME|KEY|ID", Short: "Make a key in place of another, and print its secret, this once", Args: cobra.ExactArgs(1),
		Long: `Makes a key with the name and access of another. Both work until the overlap ends, then only
the new one does; without an overlap the old one stops at once.`,
		Example: `  keybridge key rotate web-1 --repo web --overlap 24h
  eval "$(keybridge key rotate web-1 --repo web --overlap 1h --env)"`,
		ValidArgsFunction: s.completion(s.keyNames, 1),
	}
	overlap := cmd.Flags().Duration("overlap", 0, "how long the old key goes on working, up to 720h")
	env := cmd.Flags().Bool("env", false, "print as the environment variables that SDKs read")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *env && *s.json:
			return errors.New("--env and --json: choose one")
		case *overlap < 0 || *overlap > maxOverlap:
			return fmt.Errorf("--overlap is between 0 and %s", span(maxOverlap))
		}
		t, r, k, err := s.one(cmd, args[0])
		if err != nil {
			return err
		}
		var issued client.IssuedKey
		if k.ai() {
			issued, err = t.RotateAIKey(cmd.Context(), r.ID, k.ID, *overlap)
		} else {
			issued, err = t.RotateStorageKey(cmd.Context(), r.ID, k.ID, *overlap)
		}
		if err != nil {
			return err
		}
		return s.show(cmd, issued, k.AIType, *env)
	}
	return cmd
}

func keySwitchCommand(s keyScope, on bool) *cobra.Command {
	verb, short := "disable", "Stop a key from working, at once and until it is enabled"
	if on {
		verb, short = "enable", "Let a disabled key work again"
	}
	return &cobra.Command{
		Use: verb + " NAME|KEY|ID", Short: short, Args: cobra.ExactArgs(1),
		Example:           "  keybridge key " + verb + " web-1 --workspace team-a --repo web",
		ValidArgsFunction: s.completion(s.keyNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, r, k, err := s.one(cmd, args[0])
			if err != nil {
				return err
			}
			off := !on
			u := client.KeyUpdate{Disabled: &off}
			if k.ai() {
				err = t.UpdateAIKey(cmd.Context(), r.ID, k.ID, u)
			} else {
				err = t.UpdateStorageKey(cmd.Context(), r.ID, k.ID, u)
			}
			if err != nil {
				return err
			}
			return s.done(cmd, map[string]any{"id": k.ID, "name": k.Name, "disabled": off}, "%sd key %s (%s) of repository %s", verb, k.Name, k.Key.Key, r.Name)
		},
	}
}

func keyDeleteCommand(s keyScope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|KEY|ID", Short: "Revoke a key on every bridge and destroy what is sealed of it", Args: cobra.ExactArgs(1),
		Example:           "  keybridge key delete web-1 --workspace team-a --repo web",
		ValidArgsFunction: s.completion(s.keyNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, r, k, err := s.one(cmd, args[0])
			if err != nil {
				return err
			}
			if k.ai() {
				err = t.DeleteAIKey(cmd.Context(), r.ID, k.ID)
			} else {
				err = t.DeleteStorageKey(cmd.Context(), r.ID, k.ID)
			}
			if err != nil {
				return err
			}
			return s.done(cmd, deleted{k.ID, k.Name}, "revoked key %s (%s) of repository %s", k.Name, k.Key.Key, r.Name)
		},
	}
}
