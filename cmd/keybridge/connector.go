package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"keybridge/store/api/client"
)

func connectorCommand() *cobra.Command {
	cmd := group("connector", "Provider resources: a bucket, or an AI API")
	s := addScopeFlags(cmd)
	cmd.AddCommand(connectorCreateCommand(s), connectorUpdateCommand(s), connectorValidateCommand(s), connectorListCommand(s), connectorDeleteCommand(s))
	return cmd
}

// connectorForm are the flags that create and update have in common.
type connectorForm struct {
	bucket, region, endpoint, ca, key, secret, token, credential *string
	models                                                       *[]string
	configure, untried                                           *bool
}

func addConnectorFlags(cmd *cobra.Command, s scope) connectorForm {
	f := cmd.Flags()
	form := connectorForm{
		bucket:     f.String("bucket", "", "S3: bucket name; * is the whole account, any bucket of the credential"),
		region:     f.String("region", "", "S3: region (default us-east-1, or the one that the provider says)"),
		endpoint:   f.String("endpoint", "", "URL (default: the provider's own)"),
		ca:         f.String("ca-file", "", "PEM certificates to verify the endpoint against instead of the system roots"),
		key:        f.String("key", "", "S3: access key id"),
		secret:     f.String("secret-file", "", "file with the provider's secret, - for standard input"),
		token:      addTokenFlag(cmd),
		credential: f.String("credential", "", "shared credential to use instead of a secret of its own, by name, key or id"),
		models:     f.StringArray("model", nil, "AI: model to serve here beside those that the provider lists; may end in *; repeat"),
		configure:  f.Bool("allow-bucket-configuration", false, "S3: let ADMIN keys change bucket configuration and ACLs"),
		untried:    f.Bool("no-validate", false, "do not have a bridge try it at the provider first"),
	}
	complete(cmd, "credential", s.credentialNames, s)
	return form
}

// given is what the flags of a connectorForm lead to.
type given struct {
	ca            string
	secret, token client.Secret
	credential    string
}

// read reads the files that the flags name, and finds the shared credential.
func (f connectorForm) read(cmd *cobra.Command, t *tenant) (g given, err error) {
	if *f.secret != "" && *f.credential != "" {
		return g, errors.New("--secret-file or --credential: choose one")
	}
	if g.token, err = tokenOf(cmd, *f.token, *f.secret); err != nil {
		return g, err
	}
	if *f.ca != "" {
		pem, err := os.ReadFile(*f.ca)
		if err != nil {
			return g, err
		}
		g.ca = string(pem)
	}
	if *f.credential != "" {
		c, err := t.credential(cmd.Context(), *f.credential)
		if err != nil {
			return g, err
		}
		g.credential = c.ID
	}
	if *f.secret != "" {
		g.secret, err = readSecret(cmd, *f.secret)
	}
	return g, err
}

func connectorCreateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a connector; its secret is sealed here, before it is sent",
		Long: `Makes a connector after a bridge has tried it at the provider with one real and cheap call. The
secret comes from a file, standard input, or a shared credential; the session token of a temporary S3 key from
a file of its own. It is sealed for this endpoint and bucket before it leaves this machine, to a key that the
operator root vouches for.`,
		Example: `  keybridge connector create photos --type S3 --bucket photos --region eu-west-1 --key AKIA… --secret-file secret.txt
  pass show openai | keybridge connector create gpt --type OPENAI --secret-file -
  keybridge connector create local --type OTHER --endpoint https://llm.internal/v1 --ca-file ca.pem --secret-file key.txt
  keybridge connector create backups --type S3 --bucket backups --credential aws-main`,
		Args: cobra.ExactArgs(1),
	}
	f := addConnectorFlags(cmd, s)
	kind := cmd.Flags().String("type", "", "S3, OPENAI, ANTHROPIC or OTHER (OpenAI-compatible)")
	oneOf(cmd, "type", connectorTypes...)
	required(cmd, "type")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		shared := *f.credential != ""
		switch {
		case *kind == "GCS" || *kind == "BLOB" || *kind == "GOOGLE" || *kind == "AWS":
			return fmt.Errorf("--type %s is not supported yet", *kind)
		case !slices.Contains(connectorTypes, *kind):
			return fmt.Errorf("--type %s: choose one of %s", *kind, strings.Join(connectorTypes, ", "))
		case *f.secret == "" && !shared:
			return errors.New("the provider's secret is missing: --secret-file FILE, or --credential NAME for a shared one")
		case *kind == "S3" && *f.bucket == "":
			return errors.New("an S3 connector needs --bucket")
		case *kind == "S3" && *f.key == "" && !shared:
			return errors.New("an S3 connector needs --key, the access key id that goes with the secret")
		case *kind != "S3" && *f.token != "":
			return errors.New("--session-token-file is for S3 alone")
		case *kind == "OTHER" && *f.endpoint == "" && !shared:
			return errors.New("a connector of type OTHER needs --endpoint")
		}
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		g, err := f.read(cmd, t)
		if err != nil {
			return err
		}
		var id string
		if *kind == "S3" {
			id, err = t.CreateBucket(cmd.Context(), client.BucketSpec{
				WorkspaceID: t.id, Name: args[0], Bucket: *f.bucket, Endpoint: *f.endpoint, Region: *f.region, CACertificate: g.ca,
				Key: *f.key, Secret: g.secret, SessionToken: g.token, APIKeyID: g.credential,
				AllowBucketConfiguration: *f.configure, SkipValidation: *f.untried,
			})
		} else {
			id, err = t.CreateLLM(cmd.Context(), client.LLMSpec{
				WorkspaceID: t.id, Name: args[0], AIType: *kind, Endpoint: *f.endpoint, CACertificate: g.ca,
				Secret: g.secret, APIKeyID: g.credential, Models: *f.models, SkipValidation: *f.untried,
			})
		}
		if err != nil {
			return err
		}
		return s.done(cmd, map[string]string{"id": id, "name": args[0]}, "made connector %s, id %s", args[0], id)
	}
	return cmd
}

// connectorTypes are those that the API makes so far.
var connectorTypes = []string{"S3", "OPENAI", "ANTHROPIC", "OTHER"}

// changes reports whether any of a command's own flags is given.
func changes(cmd *cobra.Command) bool {
	any := false
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { any = any || f.Changed })
	return any
}

func connectorUpdateCommand(s scope) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update NAME|ID",
		Short: "Change a connector, or replace its secret",
		Long: `Changes what is given and leaves the rest. Endpoint, CA, bucket and access key are sealed with the secret:
changing one of them takes the secret again. A new secret comes with its own session token, or has none. A bridge
tries it at the provider before it replaces the old one; requests under way finish with the one that they began with.`,
		Example: `  keybridge connector update photos --key AKIA… --secret-file new-secret.txt
  pass show openai | keybridge connector update gpt --secret-file -
  keybridge connector update photos --key ASIA… --secret-file secret.txt --session-token-file token.txt
  keybridge connector update gpt --model 'ft:*' --model gpt-5
  keybridge connector update photos --name holiday-photos
  keybridge connector update backups --credential aws-main`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: s.completion(s.connectorNames, 1),
	}
	f := addConnectorFlags(cmd, s)
	name := cmd.Flags().String("name", "", "new name")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !changes(cmd) {
			return errors.New("nothing to change: say what, with a flag")
		}
		t, err := s.in(cmd)
		if err != nil {
			return err
		}
		x, err := t.connector(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if !x.storage() && *f.token != "" {
			return errors.New("--session-token-file is for S3 alone")
		}
		g, err := f.read(cmd, t)
		if err != nil {
			return err
		}
		var tried client.Validation
		if x.storage() {
			u := client.BucketUpdate{
				Name: *name, Bucket: *f.bucket, Endpoint: *f.endpoint, Region: *f.region, CACertificate: g.ca,
				Key: *f.key, Secret: g.secret, SessionToken: g.token, APIKeyID: g.credential, SkipValidation: *f.untried,
			}
			if cmd.Flags().Changed("allow-bucket-configuration") {
				u.AllowBucketConfiguration = f.configure
			}
			tried, err = t.UpdateBucket(cmd.Context(), x.ID, u)
		} else {
			tried, err = t.UpdateLLM(cmd.Context(), x.ID, client.LLMUpdate{
				Name: *name, Endpoint: *f.endpoint, CACertificate: g.ca,
				Secret: g.secret, APIKeyID: g.credential, Models: *f.models, SkipValidation: *f.untried,
			})
		}
		if err != nil {
			return fmt.Errorf("connector %s: %w", x.Name, err)
		}
		how := ""
		if tried.Latency > 0 {
			how = "; the provider accepts it"
		}
		return s.done(cmd, map[string]string{"id": x.ID, "name": x.Name}, "changed connector %s%s", x.Name, how)
	}
	return cmd
}

func connectorListCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List connectors, and how bridges find them at their providers", Args: cobra.NoArgs,
		Example: "  keybridge connector list\n  keybridge connector list --workspace team-a --json | jq -r '.[].endpoint'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, workspace, names, err := s.seen(cmd)
			if err != nil {
				return err
			}
			all, err := connectors(cmd.Context(), c, workspace, names)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, x := range all {
				rows = append(rows, []string{x.Name, x.Workspace, x.Type, x.Bucket, x.Endpoint, x.Status, x.ID})
			}
			return s.print(cmd, all, "NAME WORKSPACE TYPE BUCKET ENDPOINT STATUS ID", rows)
		},
	}
}

func connectorDeleteCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME|ID", Short: "Delete a connector and destroy its sealed secret", Args: cobra.ExactArgs(1),
		Long:              "Refused while a repository uses it: take it out with `keybridge repo update` first.",
		Example:           "  keybridge connector delete photos --workspace team-a",
		ValidArgsFunction: s.completion(s.connectorNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			x, err := t.connector(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if x.storage() {
				err = t.DeleteBucket(cmd.Context(), x.ID)
			} else {
				err = t.DeleteLLM(cmd.Context(), x.ID)
			}
			if err != nil {
				return fmt.Errorf("connector %s: %w", x.Name, err)
			}
			return s.done(cmd, deleted{x.ID, x.Name}, "deleted connector %s", x.Name)
		},
	}
}

func connectorValidateCommand(s scope) *cobra.Command {
	return &cobra.Command{
		Use: "validate NAME|ID", Short: "Have a bridge try a connector at its provider", Args: cobra.ExactArgs(1),
		Long: `A bridge makes one real and cheap call with the stored credential: it looks for the bucket, or
lists the models. The answer is the provider's own.`,
		Example:           "  keybridge connector validate photos --workspace team-a",
		ValidArgsFunction: s.completion(s.connectorNames, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := s.in(cmd)
			if err != nil {
				return err
			}
			x, err := t.connector(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var v client.Validation
			if x.storage() {
				v, err = t.ValidateBucket(cmd.Context(), x.ID, client.BucketUpdate{})
			} else {
				v, err = t.ValidateLLM(cmd.Context(), x.ID, client.LLMUpdate{})
			}
			if err != nil {
				return fmt.Errorf("connector %s: %w", x.Name, err)
			}
			if !v.OK {
				return &hinted{fmt.Errorf("connector %s: %s", x.Name, v.Message), hints["PROVIDER_REFUSED"]}
			}
			answer := struct {
				ID        string   `json:"id"`
				Name      string   `json:"name"`
				Message   string   `json:"message"`
				LatencyMs int64    `json:"latencyMs"`
				Models    []string `json:"models,omitempty"`
			}{ID: x.ID, Name: x.Name, Message: v.Message, LatencyMs: v.Latency.Milliseconds()}
			for _, m := range v.Models {
				answer.Models = append(answer.Models, m.ID)
			}
			models := ""
			if len(v.Models) > 0 {
				models = ", " + plural(len(v.Models), "model")
			}
			return s.done(cmd, answer, "connector %s works: %s, %d ms%s", x.Name, v.Message, answer.LatencyMs, models)
		},
	}
}
