// Package config is what an operator can set: one typed and validated value, made of defaults, a
// config.yaml, BUREAU_* variables of the environment and flags, each overriding those before it.
//
// A setting has one name everywhere: libvirt.pool.name in the file is --libvirt.pool.name as a
// flag and BUREAU_LIBVIRT_POOL_NAME in the environment. config.example.yaml documents all of them;
// a test holds it to this package.
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"bureau/assistant"
	"bureau/desktop"
)

// DefaultFile is read when no other file is named and it exists.
const DefaultFile = "/etc/bureau/config.yaml"

// DefaultSocket is the default administration socket.
const DefaultSocket = "/run/bureau/admin.sock"

// Config is every setting of the appliance.
type Config struct {
	Listen      string  `mapstructure:"listen"`
	Hosts       string  `mapstructure:"hosts"` // separated by commas; see HostNames
	AdminSocket string  `mapstructure:"adminSocket"`
	DataDir     string  `mapstructure:"dataDir"`
	Libvirt     Libvirt `mapstructure:"libvirt"`

	TLS          TLS         `mapstructure:"tls"`
	Proxies      string      `mapstructure:"proxies"` // separated by commas; see ProxyNetworks
	Connections  Connections `mapstructure:"connections"`
	FailureLimit int         `mapstructure:"failureLimit"` // failed authentications a minute and address; 0 is no limit
	CORS         CORS        `mapstructure:"cors"`

	Acceleration string          `mapstructure:"acceleration"`
	Image        string          `mapstructure:"image"`
	Network      string          `mapstructure:"network"`
	Tiers        map[string]Tier `mapstructure:"tiers"`
	DefaultTier  string          `mapstructure:"defaultTier"`
	Capacity     Capacity        `mapstructure:"capacity"`

	RateLimit   int           `mapstructure:"rateLimit"` // requests a minute and key; 0 is no limit
	StopGrace   time.Duration `mapstructure:"stopGrace"`
	BootTimeout time.Duration `mapstructure:"bootTimeout"`
	ScreenIdle  time.Duration `mapstructure:"screenIdle"`
	IdleStop    time.Duration `mapstructure:"idleStop"` // 0 is never
	Models      Models        `mapstructure:"models"`
	Chat        Chat          `mapstructure:"chat"`
	Activity    Activity      `mapstructure:"activity"`
	Log         Log           `mapstructure:"log"`
}

// TLS says how the API's connections are protected.
type TLS struct {
	Cert  string `mapstructure:"cert"` // a file, or TLSAuto, or "" for none
	Key   string `mapstructure:"key"`
	Plain bool   `mapstructure:"plain"`
}

// TLSAuto in the place of a certificate's file has one made.
const TLSAuto = "auto"

// Connections are how many there may be to the API; 0 is no limit.
type Connections struct {
	Total      int `mapstructure:"total"`
	PerAddress int `mapstructure:"perAddress"`
}

// CORS says which web pages may use the API.
type CORS struct {
	Origins string `mapstructure:"origins"` // separated by commas; see Origins
}

// Capacity says how much of the host desktops may be promised; 0 is any amount.
type Capacity struct {
	Memory        float64 `mapstructure:"memory"`
	MemoryReserve Bytes   `mapstructure:"memoryReserve"`
	VCPUsPerCPU   float64 `mapstructure:"vcpusPerCPU"`
	Disk          float64 `mapstructure:"disk"`
	DiskReserve   Bytes   `mapstructure:"diskReserve"`
}

// Models says how providers of models are reached and how much of them may be used.
type Models struct {
	Proxy            string      `mapstructure:"proxy"`
	NoProxy          string      `mapstructure:"noProxy"`
	PrivateAddresses bool        `mapstructure:"privateAddresses"`
	OnlyConfigured   bool        `mapstructure:"onlyConfigured"`
	Desktop          ModelLimits `mapstructure:"desktop"`
	Owner            ModelLimits `mapstructure:"owner"`
}

// ModelLimits are how much one desktop, or one owner, may use; 0 is no limit.
type ModelLimits struct {
	RequestsPerMinute int `mapstructure:"requestsPerMinute"`
	TokensPerMinute   int `mapstructure:"tokensPerMinute"`
	RequestsPerDay    int `mapstructure:"requestsPerDay"`
	TokensPerDay      int `mapstructure:"tokensPerDay"`
}

// Libvirt says which hypervisor to use and what of it is bureau's.
type Libvirt struct {
	URI    string `mapstructure:"uri"`
	Prefix string `mapstructure:"prefix"`
	Pool   Pool   `mapstructure:"pool"`
}

// Pool is the storage pool of disks and images.
type Pool struct {
	Name string `mapstructure:"name"`
	Path string `mapstructure:"path"`
}

// Tier is a size of desktop that is offered.
type Tier struct {
	VCPUs    int   `mapstructure:"vcpus"`
	Memory   Bytes `mapstructure:"memory"`
	Disk     Bytes `mapstructure:"disk"`
	Desktops int   `mapstructure:"desktops"`
	Running  int   `mapstructure:"running"`
}

// Chat is the limits of a turn of a desktop's agent.
type Chat struct {
	MaxSteps        int           `mapstructure:"maxSteps"`
	Timeout         time.Duration `mapstructure:"timeout"`
	MaxTokens       int           `mapstructure:"maxTokens"` // 0 is no limit
	ApprovalTimeout time.Duration `mapstructure:"approvalTimeout"`
	DesktopWait     time.Duration `mapstructure:"desktopWait"`
}

// Activity is the limits of the activity log.
type Activity struct {
	Keep time.Duration `mapstructure:"keep"` // 0 is for good
}

// Log says what is logged and how.
type Log struct {
	Level  slog.Level `mapstructure:"level"`
	Format string     `mapstructure:"format"`
}

// setting is one that has a single value, so that a flag and a variable can set it too.
type setting struct {
	name  string
	value any // the default; its type is the flag's
	usage string
}

// settings are all but tiers, in the order of config.example.yaml.
var settings = []setting{
	{"listen", "127.0.0.1:7878", "address that the API listens on"},
	{"hosts", "", "names under which a proxy on this host passes requests on, separated by commas"},
	{"tls.cert", "", "certificate of the API, a PEM file, or auto for one made here; without it the API is plain HTTP"},
	{"tls.key", "", "its key, a PEM file"},
	{"tls.plain", false, "let the API be plain HTTP where other hosts reach it"},
	{"proxies", "", "addresses and networks whose X-Forwarded-For is believed, separated by commas"},
	{"connections.total", 2048, "connections to the API at once; 0 is no limit"},
	{"connections.perAddress", 512, "those of them from one address that is no proxy's; 0 is no limit"},
	{"failureLimit", 30, "requests with no good key in a minute from one address; 0 is no limit"},
	{"cors.origins", "", "web origins whose pages may use the API, separated by commas"},
	{"adminSocket", DefaultSocket, "Unix socket for administration on this host"},
	{"dataDir", "/var/lib/bureau", "folder of the database"},
	{"libvirt.uri", "qemu:///system", "libvirt's connection URI"},
	{"libvirt.prefix", "bureau", "beginning of the names of all domains and networks made"},
	{"libvirt.pool.name", "bureau", "storage pool of disks and images, made when there is none"},
	{"libvirt.pool.path", "/var/lib/libvirt/bureau", "folder of that pool, on libvirt's host"},
	{"acceleration", "auto", "how guests run: auto, kvm or tcg"},
	{"image", "desktop", "image of a desktop that names none"},
	{"network", desktop.NetworkNAT, "network of a desktop that names none: nat or isolated"},
	{"defaultTier", "free", "tier of a user who was given none"},
	{"capacity.memory", 1.5, "how many times the host's memory running desktops may have together; 0 is any amount"},
	{"capacity.memoryReserve", "1GiB", "memory that is left to the host"},
	{"capacity.vcpusPerCPU", 8.0, "virtual processors that running desktops may have for each of the host's; 0 is any number"},
	{"capacity.disk", 10.0, "how many times the room for their disks may be promised to desktops; 0 is any amount"},
	{"capacity.diskReserve", "1GiB", "disk that has to be free for a desktop to be made or started"},
	{"rateLimit", 600, "requests a minute and key; 0 is no limit"},
	{"stopGrace", 30 * time.Second, "how long a guest may take to shut down before it is turned off"},
	{"bootTimeout", 5 * time.Minute, "how long a desktop may take to become ready"},
	{"screenIdle", 30 * time.Second, "how long a display nobody looks at stays connected"},
	{"idleStop", time.Duration(0), "after how long without use a desktop is stopped; 0 is never"},
	{"models.proxy", "", "URL of the proxy through which model providers are reached; none when empty"},
	{"models.noProxy", "", "hosts and networks that are reached without it, separated by commas"},
	{"models.privateAddresses", false, "let users' own model providers be at addresses that are not public"},
	{"models.onlyConfigured", false, "lend programs in desktops only the models that the providers name"},
	{"models.desktop.requestsPerMinute", 120, "requests of one desktop to models in a minute; 0 is no limit"},
	{"models.desktop.tokensPerMinute", 2_000_000, "tokens of one desktop in a minute; 0 is no limit"},
	{"models.desktop.requestsPerDay", 20_000, "requests of one desktop to models in a day; 0 is no limit"},
	{"models.desktop.tokensPerDay", 100_000_000, "tokens of one desktop in a day; 0 is no limit"},
	{"models.owner.requestsPerMinute", 600, "requests of one user's desktops to models in a minute; 0 is no limit"},
	{"models.owner.tokensPerMinute", 10_000_000, "tokens of one user's desktops in a minute; 0 is no limit"},
	{"models.owner.requestsPerDay", 100_000, "requests of one user's desktops to models in a day; 0 is no limit"},
	{"models.owner.tokensPerDay", 500_000_000, "tokens of one user's desktops in a day; 0 is no limit"},
	{"chat.maxSteps", 200, "steps that an agent may do for one message"},
	{"chat.timeout", time.Hour, "how long an agent may take for one message"},
	{"chat.maxTokens", 10_000_000, "tokens that one message to an agent may take; 0 is no limit"},
	{"chat.approvalTimeout", 10 * time.Minute, "how long an agent waits for a yes before it takes it for a no"},
	{"chat.desktopWait", 5 * time.Minute, "how long an agent waits for a desktop that has gone away"},
	{"activity.keep", 365 * 24 * time.Hour, "how long entries of the activity log are kept; 0 is for good"},
	{"log.level", "info", "what is logged: debug, info, warn or error"},
	{"log.format", "text", "how it is logged: text or json"},
}

// defaultTiers are the hosted service's.
var defaultTiers = map[string]Tier{
	"free": {VCPUs: 2, Memory: 4 << 30, Disk: 20 << 30, Desktops: 1},
	"pro":  {VCPUs: 4, Memory: 8 << 30, Disk: 40 << 30, Desktops: 3},
	"max":  {VCPUs: 4, Memory: 16 << 30, Disk: 80 << 30, Desktops: 10},
}

// DesktopTiers are the tiers in the vocabulary of the domain, by name.
func (c Config) DesktopTiers() map[string]desktop.Tier {
	tiers := make(map[string]desktop.Tier, len(c.Tiers))
	for name, t := range c.Tiers {
		tiers[name] = desktop.Tier{Name: name, VCPUs: t.VCPUs, MemoryBytes: int64(t.Memory),
			DiskBytes: int64(t.Disk), Desktops: t.Desktops, Running: t.Running}
	}
	return tiers
}

// HostNames are the names in Hosts.
func (c Config) HostNames() []string { return fields(c.Hosts) }

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// ProxyNetworks are those in Proxies.
func (c Config) ProxyNetworks() ([]netip.Prefix, error) {
	var networks []netip.Prefix
	for _, text := range fields(c.Proxies) {
		network, err := netip.ParsePrefix(text)
		if address, failure := netip.ParseAddr(text); failure == nil {
			network, err = netip.PrefixFrom(address.Unmap(), address.Unmap().BitLen()), nil
		}
		if err != nil {
			return nil, invalid("proxies", c.Proxies, "addresses and networks, such as 127.0.0.1 or 10.0.0.0/8, separated by commas")
		}
		networks = append(networks, network.Masked())
	}
	return networks, nil
}

// Origins are those in CORS, as browsers write them.
func (c Config) Origins() ([]string, error) {
	origins := fields(c.CORS.Origins)
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || strings.ContainsAny(u.Host, "*") ||
			origin != strings.ToLower(u.Scheme+"://"+u.Host) {
			return nil, invalid("cors.origins", c.CORS.Origins, "origins such as https://desk.example.org, without a path, in small letters and by name: * is none")
		}
	}
	return origins, nil
}

// Local tells whether only this host reaches the API.
func (c Config) Local() bool {
	host, _, err := net.SplitHostPort(c.Listen)
	return err == nil && Loopback(host)
}

// Loopback tells whether a name or an address is that of the host itself.
func Loopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }

// Database is the path of the database.
func (c Config) Database() string { return filepath.Join(c.DataDir, "bureau.db") }

// MasterKeys is the path of the file with the keys that the model providers' keys are sealed with.
func (c Config) MasterKeys() string { return filepath.Join(c.DataDir, "master.keys") }

var (
	prefixRule = regexp.MustCompile(`^[a-z][a-z0-9-]{0,15}$`)
	hostRule   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)
	nameRule   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
)

// longestSocket is the most bytes of a Unix socket's path.
const longestSocket = 107

// Validate says what is wrong, naming the setting.
func (c Config) Validate() error {
	if host, port, err := net.SplitHostPort(c.Listen); err != nil {
		return invalid("listen", c.Listen, "an address and a port, such as 127.0.0.1:7878 or [::]:7878")
	} else if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		return invalid("listen", c.Listen, "an address and a port, such as 127.0.0.1:7878")
	} else if host != "" && host != "localhost" && net.ParseIP(host) == nil {
		return invalid("listen", c.Listen, "an IP address, localhost, or nothing before the port")
	}
	for _, host := range c.HostNames() {
		if !hostRule.MatchString(host) {
			return invalid("hosts", c.Hosts, "host names without ports, such as bureau.example.org, separated by commas")
		}
	}
	if err := c.validateStrangers(); err != nil {
		return err
	}
	for name, path := range map[string]string{
		"adminSocket": c.AdminSocket, "dataDir": c.DataDir, "libvirt.pool.path": c.Libvirt.Pool.Path,
	} {
		if !filepath.IsAbs(path) {
			return invalid(name, path, "a path from the root")
		}
	}
	if len(c.AdminSocket) > longestSocket {
		return invalid("adminSocket", c.AdminSocket, fmt.Sprintf("at most %d bytes long, as sockets' paths are", longestSocket))
	}
	switch {
	case c.Libvirt.URI == "":
		return invalid("libvirt.uri", c.Libvirt.URI, "a connection URI, such as qemu:///system")
	case !prefixRule.MatchString(c.Libvirt.Prefix):
		return invalid("libvirt.prefix", c.Libvirt.Prefix, "a letter and up to 15 lower-case letters, digits and '-'")
	case !nameRule.MatchString(c.Libvirt.Pool.Name):
		return invalid("libvirt.pool.name", c.Libvirt.Pool.Name, "a name of letters, digits, '.', '_' and '-'")
	case !slices.Contains([]string{"auto", desktop.KVM, desktop.TCG}, c.Acceleration):
		return invalid("acceleration", c.Acceleration, "auto, kvm or tcg")
	case !nameRule.MatchString(c.Image):
		return invalid("image", c.Image, "the name of an image")
	case c.Network != desktop.NetworkNAT && c.Network != desktop.NetworkIsolated:
		return invalid("network", c.Network, "nat or isolated")
	case c.RateLimit < 0:
		return invalid("rateLimit", c.RateLimit, "a number of requests, or 0 for no limit")
	case c.StopGrace < time.Second || c.StopGrace > time.Hour:
		return invalid("stopGrace", c.StopGrace, "a time from 1s to 1h")
	case c.BootTimeout < 10*time.Second || c.BootTimeout > time.Hour:
		return invalid("bootTimeout", c.BootTimeout, "a time from 10s to 1h")
	case c.ScreenIdle < time.Second || c.ScreenIdle > 24*time.Hour:
		return invalid("screenIdle", c.ScreenIdle, "a time from 1s to 24h")
	case c.IdleStop != 0 && (c.IdleStop < time.Minute || c.IdleStop > 365*24*time.Hour):
		return invalid("idleStop", c.IdleStop, "a time from 1m to 8760h, or 0s for never")
	case c.Chat.MaxSteps < 1 || c.Chat.MaxSteps > assistant.MaxSteps:
		return invalid("chat.maxSteps", c.Chat.MaxSteps, fmt.Sprintf("a number from 1 to %d", assistant.MaxSteps))
	case c.Chat.Timeout < time.Second || c.Chat.Timeout > assistant.MaxTimeout:
		return invalid("chat.timeout", c.Chat.Timeout, "a time from 1s to 24h")
	case c.Chat.MaxTokens < 0:
		return invalid("chat.maxTokens", c.Chat.MaxTokens, "a number of tokens, or 0 for no limit")
	case c.Chat.ApprovalTimeout < time.Second || c.Chat.ApprovalTimeout > 24*time.Hour:
		return invalid("chat.approvalTimeout", c.Chat.ApprovalTimeout, "a time from 1s to 24h")
	case c.Chat.DesktopWait < time.Second || c.Chat.DesktopWait > time.Hour:
		return invalid("chat.desktopWait", c.Chat.DesktopWait, "a time from 1s to 1h")
	case c.Activity.Keep != 0 && c.Activity.Keep < 24*time.Hour:
		return invalid("activity.keep", c.Activity.Keep, "a time of 24h or more, or 0 for good")
	case c.Log.Format != "text" && c.Log.Format != "json":
		return invalid("log.format", c.Log.Format, "text or json")
	}
	if err := errors.Join(c.Capacity.validate(), c.Models.validate()); err != nil {
		return err
	}
	return c.validateTiers()
}

// validateStrangers checks what strangers meet.
func (c Config) validateStrangers() error {
	if _, err := c.ProxyNetworks(); err != nil {
		return err
	}
	if _, err := c.Origins(); err != nil {
		return err
	}
	const files = "the paths from the root of a certificate and, in tls.key, its key; or auto, without a key; or nothing"
	switch t := c.TLS; {
	case t.Cert == "" || t.Cert == TLSAuto:
		if t.Key != "" {
			return invalid("tls.cert", t.Cert, files)
		}
	case !filepath.IsAbs(t.Cert):
		return invalid("tls.cert", t.Cert, files)
	case !filepath.IsAbs(t.Key):
		return invalid("tls.key", t.Key, "the path from the root of the key of tls.cert")
	}
	switch {
	case c.Connections.Total < 0:
		return invalid("connections.total", c.Connections.Total, "a number, or 0 for no limit")
	case c.Connections.PerAddress < 0:
		return invalid("connections.perAddress", c.Connections.PerAddress, "a number, or 0 for no limit")
	case c.FailureLimit < 0:
		return invalid("failureLimit", c.FailureLimit, "a number of requests, or 0 for no limit")
	case c.TLS.Cert == "" && !c.TLS.Plain && !c.Local():
		return desktop.Errorf(desktop.Invalid, "setting listen is %q, which other hosts reach, and keys would cross the network in the clear: "+
			"set tls.cert (auto makes a certificate), or tls.plain where something else protects them", c.Listen)
	}
	return nil
}

func (c Capacity) validate() error {
	for _, s := range []struct {
		key string
		n   float64
	}{{"memory", c.Memory}, {"vcpusPerCPU", c.VCPUsPerCPU}, {"disk", c.Disk}} {
		if !(s.n >= 0 && s.n <= maxRatio) { // nor is it NaN
			return invalid("capacity."+s.key, s.n, fmt.Sprintf("a number from 0 to %d, 0 for no limit", maxRatio))
		}
	}
	if c.DiskReserve < leastReserve {
		return invalid("capacity.diskReserve", c.DiskReserve, "16MiB or more")
	}
	return nil
}

// Limits of a Capacity.
const (
	maxRatio     = 1_000_000
	leastReserve = 16 << 20
)

func (m Models) validate() error {
	if u, err := url.Parse(m.Proxy); m.Proxy != "" && (err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "socks5"}, u.Scheme)) {
		return invalid("models.proxy", m.Proxy, "an address such as http://proxy.example.org:3128")
	}
	for key, n := range map[string]int{
		"desktop.requestsPerMinute": m.Desktop.RequestsPerMinute, "desktop.tokensPerMinute": m.Desktop.TokensPerMinute,
		"desktop.requestsPerDay": m.Desktop.RequestsPerDay, "desktop.tokensPerDay": m.Desktop.TokensPerDay,
		"owner.requestsPerMinute": m.Owner.RequestsPerMinute, "owner.tokensPerMinute": m.Owner.TokensPerMinute,
		"owner.requestsPerDay": m.Owner.RequestsPerDay, "owner.tokensPerDay": m.Owner.TokensPerDay,
	} {
		if n < 0 {
			return invalid("models."+key, n, "a number, or 0 for no limit")
		}
	}
	return nil
}

func (c Config) validateTiers() error {
	for name, t := range c.Tiers {
		key := "tiers." + name
		switch {
		case !nameRule.MatchString(name):
			return invalid(key, name, "named with letters, digits, '.', '_' and '-'")
		case t.VCPUs < 1 || t.VCPUs > 256:
			return invalid(key+".vcpus", t.VCPUs, "1 to 256 processors")
		case t.Memory < 512<<20:
			return invalid(key+".memory", t.Memory, "512MiB or more")
		case t.Disk < 1<<30:
			return invalid(key+".disk", t.Disk, "1GiB or more")
		case t.Desktops < 0:
			return invalid(key+".desktops", t.Desktops, "a number of desktops, or 0 for no limit")
		case t.Running < 0:
			return invalid(key+".running", t.Running, "a number of desktops, or 0 for all of them")
		}
	}
	if _, ok := c.Tiers[c.DefaultTier]; !ok {
		var names []string
		for name := range c.Tiers {
			names = append(names, name)
		}
		slices.Sort(names)
		return invalid("defaultTier", c.DefaultTier, "one of the tiers: "+strings.Join(names, ", "))
	}
	return nil
}

func invalid(key string, value any, want string) error {
	return desktop.Errorf(desktop.Invalid, "setting %s is %q; it has to be %s", key, fmt.Sprint(value), want)
}
