package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func repoCommand() *cobra.Command {
	cmd := group("repo", "Repositories: groups of connectors that keys give access to")
	s := addScopeFlags(cmd)
	cmd.AddCommand(repoCreateCommand(s), repoUpdateCommand(s), repoListCommand(s), repoModelsCommand(s), repoSwitchCommand(s, true), repoSwitchCommand(s, false), repoDeleteCommand(s))
	return cmd
}

func repoCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a repository over connectors", Args: cobra.ExactArgs(1),
		Example: `  keybridge repo create web --workspace team-a --connector photos --connector gpt
  keybridge repo create uploads --connector photos --folder photos=incoming/`,
	}
	names := cmd.Flags().StringArray("connector", nil, "connector by name or id; repeat")
	folders := cmd.Flags().StringArray("folder", nil, "limit the repository to keys that begin with a folder of a bucket: CONNECTOR=FOLDER/; repeat")
	complete(cmd, "connector", s.connectorNames, s)
	required(cmd, "connector")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		all, err := t.connectors(cmd.Context())
		if err != nil {
			return err
		}
		spec := client.RepoSpec{WorkspaceID: t.id, Name: args[0]}
		if spec.Buckets, spec.LLMs, err = split(*names, all); err != nil {
			return err
		}
		if err := limit(spec.Buckets, *folders, all); err != nil {
			return err
		}
		id, err := t.CreateRepo(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": id, "name": args[0]}, "made repository %s, id %s", args[0], id)
	}
	return cmd
}

func repoUpdateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use: "update NAME|ID", Short: "Rename a repository, put connectors in or take them out", Args: cobra.ExactArgs(1),
		Long: `The folders of connectors that stay are kept, but for those that --folder names; with
nothing after the = the repository has the whole bucket again.`,
		Example: `  keybridge repo update web --add gpt --remove photos
  keybridge repo update web --name website
  keybridge repo update web --folder photos=public/`,
		ValidArgsFunction: s.completion(s.repoNames, 1),
	}
	name := cmd.Flags().String("name", "", "new name")
	in := cmd.Flags().StringArray("add", nil, "connector to put in, by name or id; repeat")
	out := cmd.Flags().StringArray("remove", nil, "connector to take out, by name or id; repeat")
	folders := cmd.Flags().StringArray("folder", nil, "limit the repository to keys that begin with a folder of a bucket: CONNECTOR=FOLDER/; repeat")
	complete(cmd, "add", s.connectorNames, s)
	complete(cmd, "remove", s.connectorNames, s)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *name == "" && len(*in)+len(*out)+len(*folders) == 0 {
			return errors.New("nothing to change: --name, --add, --remove or --folder")
		}
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		r, err := t.repo(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		// The lists are replaced as a whole: not if somebody else changed them meanwhile.
		u := client.RepoUpdate{Name: *name, Version: r.Version}
		if len(*in)+len(*out)+len(*folders) > 0 {
			if u.Buckets, u.LLMs, err = t.members(cmd.Context(), r, *in, *out, *folders); err != nil {
				return err
			}
		}
		if err := t.UpdateRepo(cmd.Context(), r.ID, u); err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": r.ID, "name": cmp.Or(*name, r.Name)}, "changed repository %s", cmp.Or(*name, r.Name))
	}
	return cmd
}

// members are the connectors of a repository after some came in, some went out, and
// some were limited to folders.
func (t *tenant) members(ctx context.Context, r client.Repo, in, out, folders []string) (buckets []client.RepoBucket, llms []string, err error) {
	all, err := t.connectors(ctx)
	if err != nil {
		return nil, nil, err
	}
	addBuckets, addLLMs, err := split(in, all)
	if err != nil {
		return nil, nil, err
	}
	gone := []string{}
	for _, name := range out {
		x, err := pickConnector(name, all)
		if err != nil {
			return nil, nil, err
		}
		if !slices.Contains(repoConnectors(r), x.Name) {
			return nil, nil, fmt.Errorf("repository %s does not have connector %s", r.Name, x.Name)
		}
		gone = append(gone, x.ID)
	}
	buckets, llms = []client.RepoBucket{}, []string{}
	for _, b := range r.Buckets {
		buckets = append(buckets, b.RepoBucket)
	}
	for _, b := range addBuckets {
		if !slices.ContainsFunc(buckets, func(have client.RepoBucket) bool { return have.ID == b.ID }) {
			buckets = append(buckets, b)
		}
	}
	for _, l := range r.LLMs {
		llms = append(llms, l.ID)
	}
	for _, id := range addLLMs {
		if !slices.Contains(llms, id) {
			llms = append(llms, id)
		}
	}
	buckets = slices.DeleteFunc(buckets, func(b client.RepoBucket) bool { return slices.Contains(gone, b.ID) })
	llms = slices.DeleteFunc(llms, func(id string) bool { return slices.Contains(gone, id) })
	return buckets, llms, limit(buckets, folders, all)
}

// limit gives buckets of a repository the folders that flags name.
func limit(buckets []client.RepoBucket, folders []string, all []connector) error {
	for _, f := range folders {
		name, folder, ok := strings.Cut(f, "=")
		if !ok {
			return fmt.Errorf("--folder %s: not of the form CONNECTOR=FOLDER/", f)
		}
		x, err := pickConnector(name, all)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(buckets, func(b client.RepoBucket) bool { return b.ID == x.ID })
		if i < 0 {
			return fmt.Errorf("--folder %s: the repository has no bucket of connector %s", f, x.Name)
		}
		buckets[i].Folder = folder
	}
	return nil
}

// split finds connectors by name and returns the ids of each kind.
func split(names []string, all []connector) (buckets []client.RepoBucket, llms []string, err error) {
	for _, name := range names {
		x, err := pickConnector(name, all)
		if err != nil {
			return nil, nil, err
		}
		if x.storage() {
			buckets = append(buckets, client.RepoBucket{ID: x.ID})
		} else {
			llms = append(llms, x.ID)
		}
	}
	return buckets, llms, nil
}

func repoListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List repositories", Args: cobra.NoArgs,
		Example: "  keybridge repo list\n  keybridge repo list --workspace team-a --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, workspace, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := c.Repos(cmd.Context(), workspace)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range all {
				rows = append(rows, []string{
					r.Name, names[r.WorkspaceID], enabled(!r.Disabled), strings.Join(limited(r), ","),
					fmt.Sprint(len(r.StorageKeys) + len(r.AIKeys)), r.ID,
				})
			}
			return s.print(cmd, listed(all), "NAME WORKSPACE STATE CONNECTORS KEYS ID", rows)
		},
	}
}

func repoModelsCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "models NAME|ID", Short: "List the models that a repository's AI connectors offer", Args: cobra.ExactArgs(1),
		Long:              "A bridge asks each provider; what a connector names beside that with --model is listed too.",
		Example:           "  keybridge repo models bot --workspace team-a",
		ValidArgsFunction: s.completion(s.repoNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			r, err := t.repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			all, err := t.Models(cmd.Context(), r.ID, "")
			if err != nil {
				return err
			}
			var rows [][]string
			for _, m := range all {
				rows = append(rows, []string{m.ID, m.LLMProvider, m.LLMType})
			}
			return s.print(cmd, listed(all), "MODEL CONNECTOR API", rows)
		},
	}
}

func enabled(yes bool) string {
	if yes {
		return "enabled"
	}
	return "disabled"
}

// repoConnectors are the names of a repository's connectors.
func repoConnectors(r client.Repo) (names []string) {
	for _, b := range r.Buckets {
		names = append(names, b.Bucket.Name)
	}
	for _, l := range r.LLMs {
		names = append(names, l.LLM.Name)
	}
	return names
}

// limited are a repository's connectors and the folders that it is limited to, as --folder takes them.
func limited(r client.Repo) []string {
	names := repoConnectors(r)
	for i, b := range r.Buckets {
		if b.Folder != "" {
			names[i] += "=" + b.Folder
		}
	}
	return names
}

func repoSwitchCommand(s scope, on bool) *cobra.Command {
	verb, short := "disable", "Stop all keys of a repository from working, at once and until it is enabled"
	if on {
		verb, short = "enable", "Let the keys of a disabled repository work again"
	}
	return &cobra.Command{
		Use: verb + " NAME|ID", Short: short, Args: cobra.ExactArgs(1),
		Example:           "  keybridge repo " + verb + " web --workspace team-a",
		ValidArgsFunction: s.completion(s.repoNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			r, err := t.repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := t.SetRepoDisabled(cmd.Context(), r.ID, !on); err != nil {
				return err
			}
			return s.done(cmd, map[string]any{"id": r.ID, "name": r.Name, "disabled": !on}, "%sd repository %s", verb, r.Name)
		},
	}
}

func repoDeleteCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a repository; its keys stop working", Args: cobra.ExactArgs(1),
		Example:           "  keybridge repo delete web --workspace team-a",
		ValidArgsFunction: s.completion(s.repoNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			r, err := t.repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := t.DeleteRepo(cmd.Context(), r.ID); err != nil {
				return err
			}
			return s.done(cmd, deleted{r.ID, r.Name}, "deleted repository %s and its %s", r.Name, plural(len(r.StorageKeys)+len(r.AIKeys), "key"))
		},
	}
}
