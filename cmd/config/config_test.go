package config

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"bureau/desktop"
)

const example = "../../config.example.yaml"

// The example documents every setting with its default, and nothing else.
func TestExampleAgreesWithCode(t *testing.T) {
	fromExample, err := Load(example, nil)
	if err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defaults, err := Load(empty, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(fromExample, defaults) {
		t.Errorf("the example says\n%+v\nand the defaults are\n%+v", fromExample, defaults)
	}

	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	documented := flatten("", tree)
	var inCode []string
	for _, s := range settings {
		inCode = append(inCode, s.name)
	}
	for name := range defaultTiers {
		for _, field := range tierFields {
			inCode = append(inCode, "tiers."+name+"."+field)
		}
	}
	slices.Sort(inCode)
	if !slices.Equal(documented, inCode) {
		t.Errorf("the example has\n%v\nand the code\n%v", documented, inCode)
	}
}

// The struct, the list of settings and so the flags are the same set.
func TestEveryFieldIsASetting(t *testing.T) {
	var walk func(prefix string, typ reflect.Type) []string
	walk = func(prefix string, typ reflect.Type) (names []string) {
		for i := range typ.NumField() {
			name := prefix + typ.Field(i).Tag.Get("mapstructure")
			if typ.Field(i).Type.Kind() == reflect.Struct {
				names = append(names, walk(name+".", typ.Field(i).Type)...)
			} else if name != "tiers" {
				names = append(names, name)
			}
		}
		return names
	}
	fields := walk("", reflect.TypeFor[Config]())
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(flags)
	var names []string
	flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	slices.Sort(fields)
	slices.Sort(names)
	if !slices.Equal(fields, names) {
		t.Errorf("fields\n%v\nflags\n%v", fields, names)
	}
	tier := reflect.TypeFor[Tier]()
	for i := range tier.NumField() {
		if !slices.Contains(tierFields, tier.Field(i).Tag.Get("mapstructure")) {
			t.Errorf("tiers have no %s", tier.Field(i).Name)
		}
	}
}

func TestPrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.yaml")
	text := "listen: 127.0.0.1:1\nlibvirt: {pool: {name: filepool}}\nstopGrace: 1m\nlog: {level: warn}\ntiers: {Big.One: {vcpus: 8, memory: 1073741824, disk: 30 GB}}\ndefaultTier: Big.One\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("BUREAU_LIBVIRT_POOL_NAME", "envpool")
	t.Setenv("BUREAU_STOPGRACE", "2m")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	AddFlags(flags)
	if err := flags.Parse([]string{"--stopGrace", "3m"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, flags)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:1" || c.Libvirt.Pool.Name != "envpool" || c.StopGrace != 3*time.Minute ||
		c.BootTimeout != 5*time.Minute || c.Log.Level != slog.LevelWarn {
		t.Errorf("%+v", c)
	}
	want := map[string]desktop.Tier{"Big.One": {Name: "Big.One", VCPUs: 8, MemoryBytes: 1 << 30, DiskBytes: 30e9}}
	if got := c.DesktopTiers(); !reflect.DeepEqual(got, want) {
		t.Errorf("tiers %+v", got)
	}
}

func TestFaultsNameTheSetting(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"unknown":          {"colour: red", `no setting "colour"`},
		"misspelt":         {"libvirt: {uril: x}", `no setting "libvirt.uril"; is it "libvirt.uri"?`},
		"wrong case":       {"stopgrace: 1s", `no setting "stopgrace"; is it "stopGrace"?`},
		"wrong place":      {"pool: {name: x}", `no setting "pool.name"; is it "libvirt.pool.name"?`},
		"tier field":       {"tiers: {free: {cpus: 2}}", `no setting "tiers.free.cpus"`},
		"scalar as a tree": {"log: text", `no setting "log"`},
		"listen":           {"listen: localhost", "setting listen is"},
		"listen host":      {"listen: example.org:80", "setting listen is"},
		"open":             {"listen: 0.0.0.0:80", "setting listen is"},
		"open to all":      {"listen: :80", "set tls.cert"},
		"no key":           {"tls: {cert: /etc/x.pem}", "setting tls.key is"},
		"relative cert":    {"tls: {cert: x.pem, key: /etc/x.key}", "setting tls.cert is"},
		"key of auto":      {"tls: {cert: auto, key: /etc/x.key}", "setting tls.cert is"},
		"proxies":          {"proxies: 127.0.0.1, proxy.example.org", "setting proxies is"},
		"connections":      {"connections: {total: -1}", "setting connections.total is"},
		"per address":      {"connections: {perAddress: -1}", "setting connections.perAddress is"},
		"failures":         {"failureLimit: -1", "setting failureLimit is"},
		"every origin":     {"cors: {origins: '*'}", "setting cors.origins is"},
		"any subdomain":    {"cors: {origins: 'https://*.example.org'}", "setting cors.origins is"},
		"origin's path":    {"cors: {origins: 'https://example.org/'}", "setting cors.origins is"},
		"origin's name":    {"cors: {origins: example.org}", "setting cors.origins is"},
		"null origin":      {"cors: {origins: 'null'}", "setting cors.origins is"},
		"relative":         {"dataDir: data", "setting dataDir is"},
		"long socket":      {"adminSocket: /" + strings.Repeat("x", 107), "setting adminSocket is"},
		"prefix":           {"libvirt: {prefix: Bureau}", "setting libvirt.prefix is"},
		"acceleration":     {"acceleration: hvf", "setting acceleration is"},
		"network":          {"network: bridge", "setting network is"},
		"promises":         {"capacity: {memory: -1}", "setting capacity.memory is"},
		"no promise":       {"capacity: {disk: .nan}", "setting capacity.disk is"},
		"no reserve":       {"capacity: {diskReserve: 0}", "setting capacity.diskReserve is"},
		"idle":             {"idleStop: 5s", "setting idleStop is"},
		"tier running":     {"tiers: {free: {vcpus: 1, memory: 1GiB, disk: 2GiB, running: -1}}", "setting tiers.free.running is"},
		"rate":             {"rateLimit: -1", "setting rateLimit is"},
		"proxy":            {"models: {proxy: proxy.example.org}", "setting models.proxy is"},
		"model limit":      {"models: {owner: {tokensPerDay: -1}}", "setting models.owner.tokensPerDay is"},
		"no number":        {"rateLimit: many", "rateLimit"},
		"no unit":          {"stopGrace: 30", `"30" is not a time`},
		"short":            {"stopGrace: 1ms", "setting stopGrace is"},
		"steps":            {"chat: {maxSteps: 0}", "setting chat.maxSteps is"},
		"turn's time":      {"chat: {timeout: 25h}", "setting chat.timeout is"},
		"activity":         {"activity: {keep: 1h}", "setting activity.keep is"},
		"tokens":           {"chat: {maxTokens: -1}", "setting chat.maxTokens is"},
		"approval":         {"chat: {approvalTimeout: 0s}", "setting chat.approvalTimeout is"},
		"waiting":          {"chat: {desktopWait: 2h}", "setting chat.desktopWait is"},
		"level":            {"log: {level: loud}", "log.level"},
		"format":           {"log: {format: xml}", "setting log.format is"},
		"default tier":     {"defaultTier: gold", "one of the tiers: free, max, pro"},
		"tier memory":      {"tiers: {free: {vcpus: 1, memory: 1MiB, disk: 2GiB}}", "setting tiers.free.memory is"},
		"tier size":        {"tiers: {free: {vcpus: 1, memory: 4 apples, disk: 2GiB}}", `"4 apples" is not a size`},
		"not a map":        {"- a", "configuration"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := Load(file, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			if desktop.CodeOf(err) != desktop.Invalid || strings.Contains(err.Error(), "\n  ") {
				t.Errorf("%s: %v", desktop.CodeOf(err), err)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("a file that was named and is missing: %v", err)
	}
}

// Who may listen where others reach it, and what lists are made of.
func TestStrangers(t *testing.T) {
	for _, text := range []string{
		"listen: localhost:80", "listen: '[::1]:80'", "listen: 127.1.2.3:80",
		"{listen: 0.0.0.0:80, tls: {cert: auto}}", "{listen: ':80', tls: {plain: true}}",
		"{listen: '[::]:80', tls: {cert: /etc/x.pem, key: /etc/x.key}}",
		"{proxies: '127.0.0.1, ::1,10.1.2.3/8', cors: {origins: 'https://a.example.org, http://localhost:3000'}}",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(file, nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		proxies, _ := c.ProxyNetworks()
		origins, _ := c.Origins()
		if c.Proxies != "" && (fmt.Sprint(proxies) != "[127.0.0.1/32 ::1/128 10.0.0.0/8]" || fmt.Sprint(origins) != "[https://a.example.org http://localhost:3000]") {
			t.Errorf("proxies %v, origins %q", proxies, origins)
		}
	}
}

// What Values prints of the defaults is what the example says.
func TestValues(t *testing.T) {
	c, err := Load(example, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range c.Values() {
		names = append(names, v.Name)
		node, isMap := any(tree), true
		for _, part := range strings.Split(v.Name, ".") {
			var below map[string]any
			if below, isMap = node.(map[string]any); !isMap {
				t.Fatalf("%s is not in the example", v.Name)
			}
			node = below[part]
		}
		want := fmt.Sprint(node)
		if d, err := time.ParseDuration(want); err == nil && want != "0" { // a number without a unit
			want = d.String()
		}
		if v.Value != want {
			t.Errorf("%s is %q and in the example %q", v.Name, v.Value, want)
		}
	}
	slices.Sort(names)
	if documented := flatten("", tree); !slices.Equal(names, documented) {
		t.Errorf("values\n%v\nexample\n%v", names, documented)
	}
}

func TestBytes(t *testing.T) {
	for text, want := range map[string]Bytes{
		"4GiB": 4 << 30, "4 gib": 4 << 30, "1.5GiB": 3 << 29, "20GB": 20e9, "512": 512, "512MiB": 512 << 20, "1kB": 1000, "2TiB": 2 << 40, "0": 0,
	} {
		got, err := ParseBytes(text)
		if err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
		if back, err := ParseBytes(got.String()); err != nil || back != got {
			t.Errorf("%d is written %q and read %d, %v", got, got, back, err)
		}
	}
	for _, text := range []string{"", "GiB", "4G", "-1", "1e9", "4 4GiB", "99999999TiB"} {
		if got, err := ParseBytes(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
