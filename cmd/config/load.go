package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"

	"bureau/desktop"
)

// AddFlags gives a command a flag for every setting.
func AddFlags(flags *pflag.FlagSet) {
	for _, s := range settings {
		switch value := s.value.(type) {
		case string:
			flags.String(s.name, value, s.usage)
		case int:
			flags.Int(s.name, value, s.usage)
		case float64:
			flags.Float64(s.name, value, s.usage)
		case bool:
			flags.Bool(s.name, value, s.usage)
		case time.Duration:
			flags.Duration(s.name, value, s.usage)
		}
	}
}

// EnvName is the variable that sets a setting.
func EnvName(name string) string {
	return "BUREAU_" + strings.ToUpper(strings.ReplaceAll(name, ".", "_"))
}

// Load reads the configuration. file is the path of a config.yaml; empty for DefaultFile, which
// may be missing. flags may be nil.
func Load(file string, flags *pflag.FlagSet) (Config, error) {
	v := viper.New()
	for _, s := range settings {
		v.SetDefault(s.name, s.value)
		if err := v.BindEnv(s.name, EnvName(s.name)); err != nil {
			return Config{}, err
		}
		if flags != nil {
			if flag := flags.Lookup(s.name); flag != nil {
				if err := v.BindPFlag(s.name, flag); err != nil {
					return Config{}, err
				}
			}
		}
	}
	tree, err := readFile(file)
	if err != nil {
		return Config{}, err
	}
	// Not through viper, which folds the names of a map to lower case.
	tiers, given := tree["tiers"]
	delete(tree, "tiers")
	if err := v.MergeConfigMap(tree); err != nil {
		return Config{}, err
	}
	var c Config
	if err := v.Unmarshal(&c, viper.DecodeHook(mapstructure.ComposeDecodeHookFunc(
		durations, mapstructure.TextUnmarshallerHookFunc(), sizes))); err != nil {
		return Config{}, decodeError(err)
	}
	c.Tiers = map[string]Tier{}
	if given {
		if err := decodeTiers(tiers, &c.Tiers); err != nil {
			return Config{}, decodeError(err)
		}
	} else {
		for name, t := range defaultTiers {
			c.Tiers[name] = t
		}
	}
	return c, c.Validate()
}

// readFile reads a config.yaml and refuses what is not a setting.
func readFile(file string) (map[string]any, error) {
	named := file != ""
	if !named {
		file = DefaultFile
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil, nil
	}
	if err != nil {
		return nil, desktop.Errorf(desktop.Invalid, "configuration: %w", err)
	}
	var tree map[string]any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return nil, desktop.Errorf(desktop.Invalid, "configuration %s: %s", file, strings.Join(strings.Fields(err.Error()), " "))
	}
	for _, key := range flatten("", tree) {
		if !known(key) {
			return nil, desktop.Errorf(desktop.Invalid, "configuration %s: there is no setting %q%s", file, key, suggestion(key))
		}
	}
	return tree, nil
}

// flatten lists the settings of a file by their whole names.
func flatten(prefix string, tree map[string]any) []string {
	var keys []string
	for key, value := range tree {
		name := prefix + key
		if below, ok := value.(map[string]any); ok && len(below) > 0 {
			keys = append(keys, flatten(name+".", below)...)
		} else {
			keys = append(keys, name)
		}
	}
	slices.Sort(keys)
	return keys
}

var tierFields = []string{"vcpus", "memory", "disk", "desktops", "running"}

func known(key string) bool {
	if rest, ok := strings.CutPrefix(key, "tiers."); ok {
		dot := strings.LastIndexByte(rest, '.') // a tier's name may have dots
		return dot > 0 && slices.Contains(tierFields, rest[dot+1:])
	}
	return key == "tiers" || slices.ContainsFunc(settings, func(s setting) bool { return s.name == key })
}

// suggestion finds the setting that was probably meant.
func suggestion(key string) string {
	last := key[strings.LastIndexByte(key, '.')+1:]
	best, least := "", 3
	for _, s := range settings {
		if d := min(distance(strings.ToLower(key), strings.ToLower(s.name)),
			1+distance(strings.ToLower(last), strings.ToLower(s.name[strings.LastIndexByte(s.name, '.')+1:]))); d < least {
			best, least = s.name, d
		}
	}
	if best == "" {
		return "; config.example.yaml has all of them"
	}
	return fmt.Sprintf("; is it %q?", best)
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func decodeTiers(given any, tiers *map[string]Tier) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: tiers, ErrorUnused: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(mapstructure.TextUnmarshallerHookFunc(), sizes),
	})
	if err != nil {
		return err
	}
	if err := decoder.Decode(given); err != nil {
		return fmt.Errorf("tiers: %w", err)
	}
	return nil
}

// sizes lets a plain number be a size.
func sizes(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[Bytes]() || from.Kind() != reflect.Int {
		return data, nil
	}
	return ParseBytes(strconv.Itoa(data.(int)))
}

// durations insists on a unit: a bare number would be nanoseconds.
func durations(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[time.Duration]() || from == to {
		return data, nil
	}
	text := fmt.Sprint(data)
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil, fmt.Errorf("%q is not a time such as 30s or 5m", text)
	}
	return d, nil
}

// decodeError makes one line of mapstructure's several.
func decodeError(err error) error {
	lines := strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' })
	var parts []string
	for _, line := range lines {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "* "))
		if line != "" && !strings.HasSuffix(line, ":") && !strings.Contains(line, "error(s) decoding") {
			parts = append(parts, line)
		}
	}
	return desktop.Errorf(desktop.Invalid, "configuration: %s", strings.Join(parts, "; "))
}

func number(n float64) string { return strconv.FormatFloat(n, 'f', -1, 64) }

// Value is one setting that is in effect.
type Value struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Values are all settings in effect, by the names and in the notation of a config.yaml.
func (c Config) Values() []Value {
	values := []Value{
		{"listen", c.Listen}, {"hosts", c.Hosts},
		{"tls.cert", c.TLS.Cert}, {"tls.key", c.TLS.Key}, {"tls.plain", strconv.FormatBool(c.TLS.Plain)}, {"proxies", c.Proxies},
		{"connections.total", strconv.Itoa(c.Connections.Total)}, {"connections.perAddress", strconv.Itoa(c.Connections.PerAddress)},
		{"failureLimit", strconv.Itoa(c.FailureLimit)}, {"cors.origins", c.CORS.Origins},
		{"adminSocket", c.AdminSocket}, {"dataDir", c.DataDir},
		{"libvirt.uri", c.Libvirt.URI}, {"libvirt.prefix", c.Libvirt.Prefix},
		{"libvirt.pool.name", c.Libvirt.Pool.Name}, {"libvirt.pool.path", c.Libvirt.Pool.Path},
		{"acceleration", c.Acceleration}, {"image", c.Image}, {"network", c.Network},
		{"defaultTier", c.DefaultTier},
		{"capacity.memory", number(c.Capacity.Memory)}, {"capacity.memoryReserve", c.Capacity.MemoryReserve.String()},
		{"capacity.vcpusPerCPU", number(c.Capacity.VCPUsPerCPU)},
		{"capacity.disk", number(c.Capacity.Disk)}, {"capacity.diskReserve", c.Capacity.DiskReserve.String()},
		{"rateLimit", strconv.Itoa(c.RateLimit)},
		{"stopGrace", c.StopGrace.String()}, {"bootTimeout", c.BootTimeout.String()}, {"screenIdle", c.ScreenIdle.String()},
		{"idleStop", c.IdleStop.String()},
		{"models.proxy", c.Models.Proxy}, {"models.noProxy", c.Models.NoProxy},
		{"models.privateAddresses", strconv.FormatBool(c.Models.PrivateAddresses)}, {"models.onlyConfigured", strconv.FormatBool(c.Models.OnlyConfigured)},
		{"chat.maxSteps", strconv.Itoa(c.Chat.MaxSteps)}, {"chat.timeout", c.Chat.Timeout.String()},
		{"chat.maxTokens", strconv.Itoa(c.Chat.MaxTokens)}, {"chat.approvalTimeout", c.Chat.ApprovalTimeout.String()},
		{"chat.desktopWait", c.Chat.DesktopWait.String()},
		{"activity.keep", c.Activity.Keep.String()},
		{"log.level", strings.ToLower(c.Log.Level.String())}, {"log.format", c.Log.Format},
	}
	for _, whose := range []struct {
		name   string
		limits ModelLimits
	}{{"desktop", c.Models.Desktop}, {"owner", c.Models.Owner}} {
		for _, limit := range []struct {
			name string
			n    int
		}{
			{"requestsPerMinute", whose.limits.RequestsPerMinute}, {"tokensPerMinute", whose.limits.TokensPerMinute},
			{"requestsPerDay", whose.limits.RequestsPerDay}, {"tokensPerDay", whose.limits.TokensPerDay},
		} {
			values = append(values, Value{"models." + whose.name + "." + limit.name, strconv.Itoa(limit.n)})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Tiers)) {
		t := c.Tiers[name]
		values = append(values, Value{"tiers." + name + ".vcpus", strconv.Itoa(t.VCPUs)},
			Value{"tiers." + name + ".memory", t.Memory.String()}, Value{"tiers." + name + ".disk", t.Disk.String()},
			Value{"tiers." + name + ".desktops", strconv.Itoa(t.Desktops)}, Value{"tiers." + name + ".running", strconv.Itoa(t.Running)})
	}
	return values
}
