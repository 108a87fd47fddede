package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"keybridge/store/api/client"
)

func credentialCommand() *cobra.Command {
	cmd := group("credential", "Shared credentials: one provider key for several connectors")
	s := addScopeFlags(cmd)
	cmd.AddCommand(credentialCreateCommand(s), credentialRotateCommand(s), credentialListCommand(s), credentialDeleteCommand(s))
	return cmd
}

// credential finds a shared credential by its name (the API's description), key or id.
func (t *tenant) credential(ctx context.Context, name string) (client.Credential, error) {
	all, err := t.Credentials(ctx, t.id)
	if err != nil {
		return client.Credential{}, err
	}
	return pick("credential", name, all, func(c client.Credential) []string { return []string{c.ID, c.Description, c.Key} })
}

func (s scope) credentialNames(ctx context.Context, c *client.Client, _ []string) (names []string, err error) {
	all, err := c.Credentials(ctx, s.workspaceID(ctx, c))
	for _, x := range all {
		names = append(names, cmp.Or(x.Description, x.ID))
	}
	return names, err
}

func credentialCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a credential that connectors can share; its secret is sealed here, before it is sent",
		Long: `Makes a credential for one endpoint of a provider. A connector takes it with --credential instead of
a secret of its own; a storage credential serves any bucket that the provider lets it.`,
		Example: `  keybridge credential create aws-main --provider AWS --region eu-west-1 --key AKIA… --secret-file secret.txt
  pass show openai | keybridge credential create openai --provider OPENAI --secret-file -
  keybridge credential create minio --provider OTHER --endpoint https://minio.internal --ca-file ca.pem --key minio --secret-file secret.txt`,
		Args: cobra.ExactArgs(1),
	}
	f := cmd.Flags()
	provider := f.String("provider", "", "AWS, OPENAI, ANTHROPIC or OTHER (S3-compatible with --key, OpenAI-compatible without)")
	key := f.String("key", "", "storage: access key id")
	secret := f.String("secret-file", "", "file with the provider's secret, - for standard input")
	token := addTokenFlag(cmd)
	endpoint := f.String("endpoint", "", "URL (default: the provider's own)")
	region := f.String("region", "", "storage: region")
	ca := f.String("ca-file", "", "PEM certificates to verify the endpoint against instead of the system roots")
	oneOf(cmd, "provider", credentialProviders...)
	required(cmd, "provider", "secret-file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *provider == "GCP" || *provider == "AZURE" || *provider == "GOOGLE":
			return fmt.Errorf("--provider %s is not supported yet", *provider)
		case !slices.Contains(credentialProviders, *provider):
			return fmt.Errorf("--provider %s: choose one of %s", *provider, strings.Join(credentialProviders, ", "))
		case *provider == "AWS" && *key == "":
			return errors.New("a credential of AWS needs --key, the access key id that goes with the secret")
		case *provider == "OTHER" && *endpoint == "":
			return errors.New("a credential of provider OTHER needs --endpoint")
		}
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		all, err := t.Credentials(cmd.Context(), t.id)
		if err != nil {
			return err
		}
		for _, c := range all {
			if c.Description == args[0] { // the API would allow it, but no command could name either
				return fmt.Errorf("workspace %s has a credential %s", t.name, args[0])
			}
		}
		spec := client.CredentialSpec{
			WorkspaceID: t.id, Provider: *provider, Key: *key, Endpoint: *endpoint, Region: *region, Description: args[0],
		}
		if *ca != "" {
			pem, err := os.ReadFile(*ca)
			if err != nil {
				return err
			}
			spec.CACertificate = string(pem)
		}
		if spec.SessionToken, err = tokenOf(cmd, *token, *secret); err != nil {
			return err
		}
		if spec.Secret, err = readSecret(cmd, *secret); err != nil {
			return err
		}
		id, err := t.CreateCredential(cmd.Context(), spec)
		if err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": id, "name": args[0]}, "made credential %s, id %s", args[0], id)
	}
	return cmd
}

// credentialProviders are those that the API takes so far.
var credentialProviders = []string{"AWS", "OPENAI", "ANTHROPIC", "OTHER"}

func credentialRotateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate NAME|ID",
		Short: "Replace the key of a credential, for all connectors that use it at once",
		Long: `Seals a new secret in place of the old one. Every bridge goes over to it within a quarter of a second; requests
under way finish with the one that they began with. Keep the old key valid at the provider until then.

A connector that has a secret of its own is rotated with "keybridge connector update".`,
		Example:           "  keybridge credential rotate aws-main --key AKIA… --secret-file new-secret.txt",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completion(s.credentialNames, 1),
	}
	key := cmd.Flags().String("key", "", "storage: access key id of the new secret (default: the old one)")
	secret := cmd.Flags().String("secret-file", "", "file with the provider's new secret, - for standard input")
	token := addTokenFlag(cmd)
	required(cmd, "secret-file")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		c, err := t.credential(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		u := client.CredentialUpdate{Key: *key}
		if u.SessionToken, err = tokenOf(cmd, *token, *secret); err != nil {
			return err
		}
		if u.Secret, err = readSecret(cmd, *secret); err != nil {
			return err
		}
		if err := t.UpdateCredential(cmd.Context(), c.ID, u); err != nil {
			return err
		}
		return s.done(cmd, map[string]any{"id": c.ID, "name": c.Description, "connectors": c.Buckets + c.LLMs},
			"replaced the key of credential %s, for %s", cmp.Or(c.Description, c.ID), plural(c.Buckets+c.LLMs, "connector"))
	}
	return cmd
}

func credentialListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List shared credentials, without their secrets", Args: cobra.NoArgs,
		Example: "  keybridge credential list --workspace team-a",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, workspace, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := c.Credentials(cmd.Context(), workspace)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{x.Description, names[x.WorkspaceID], x.Provider, x.Key, x.Endpoint, fmt.Sprint(x.Buckets + x.LLMs), x.ID})
			}
			return s.print(cmd, listed(all), "NAME WORKSPACE PROVIDER KEY ENDPOINT CONNECTORS ID", rows)
		},
	}
}

func credentialDeleteCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Destroy a shared credential that no connector uses", Args: cobra.ExactArgs(1),
		Example:           "  keybridge credential delete aws-main --workspace team-a",
		ValidArgsFunction: s.completion(s.credentialNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			c, err := t.credential(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if err := t.DeleteCredential(cmd.Context(), c.ID); err != nil {
				return err
			}
			return s.done(cmd, deleted{c.ID, c.Description}, "deleted credential %s", cmp.Or(c.Description, c.ID))
		},
	}
}
