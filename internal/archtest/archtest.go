// Package archtest holds the map of the rooms: which may import which, as a test.
//
// Runs in: tools
package archtest

// Layer is a group of rooms with laws of its own.
type Layer string

// Layers.
const (
	Word   Layer = "word"   // pure: bytes and meaning; no I/O, no goroutine, no clock
	Engine Layer = "engine" // packets and samples on one host
	Pipe   Layer = "pipe"   // state, rights, the contract between agent and controller
	Place  Layer = "place"  // agent and controller: the only rooms that know two neighbours
	Door   Layer = "door"   // translate, stream, map errors
	Main   Layer = "main"   // wiring
	Aid    Layer = "aid"    // for tests and tools
)

// Room is one line of the map. Our rooms that it may import are MayImport and Shared.
type Room struct {
	Layer     Layer
	MayImport []string // a room, or a room and "/..." for it and all below
	Unix      bool     // may import golang.org/x/sys/unix: it makes system calls
	Driver    bool     // must have a README.md in the form of a man page
	Heavy     bool     // wraps a library which links net/http or protobuf; engines do not import it
}

// Shared are the words everybody may import.
var Shared = []string{"ledger", "want", "fault", "packet"}

// Rooms is the map. A new room needs a line here, and a reason in docs/adr when it is a word that others share.
var Rooms = map[string]Room{
	"packet":            {Layer: Word},
	"packet/detail":     {Layer: Word},
	"ledger":            {Layer: Word},
	"fault":             {Layer: Word},
	"filter":            {Layer: Word, MayImport: []string{"point"}},
	"filter/cbpf":       {Layer: Word, MayImport: []string{"filter"}},
	"filter/ebpf":       {Layer: Engine, MayImport: []string{"filter"}},
	"filter/filtertest": {Layer: Aid, MayImport: []string{"filter"}},
	"pcap":              {Layer: Word},
	"point":             {Layer: Word},
	"report":            {Layer: Word, MayImport: []string{"point"}},
	"want":              {Layer: Word, MayImport: []string{"filter"}},

	"wire/netflow": {Layer: Word},
	"wire/sflow":   {Layer: Word},
	"wire/of13":    {Layer: Word},
	"wire/ovsdb":   {Layer: Word},
	"wire/probe":   {Layer: Word},

	"capture/ring":      {Layer: Engine, MayImport: []string{"filter/ebpf"}, Unix: true},
	"capture/xdpring":   {Layer: Engine, MayImport: []string{"capture/ring"}, Unix: true},
	"capture/segment":   {Layer: Engine, MayImport: []string{"pcap", "capture/index", "capture/zseek"}, Unix: true},
	"capture/zseek":     {Layer: Engine},
	"capture/index":     {Layer: Engine, MayImport: []string{"filter"}},
	"capture/query":     {Layer: Engine, MayImport: []string{"filter", "pcap", "capture/segment", "capture/index"}},
	"capture":           {Layer: Engine, MayImport: []string{"capture/...", "filter", "filter/cbpf", "point", "pcap"}},
	"flow":              {Layer: Engine, MayImport: []string{"point", "wire/netflow"}, Unix: true},
	"flow/csvout":       {Layer: Engine, MayImport: []string{"flow"}},
	"flow/parquetout":   {Layer: Engine, MayImport: []string{"flow"}, Heavy: true},
	"flow/arrowout":     {Layer: Engine, MayImport: []string{"flow"}, Heavy: true},
	"flow/query":        {Layer: Engine, MayImport: []string{"flow", "filter"}},
	"flow/export":       {Layer: Engine, MayImport: []string{"flow", "wire/netflow"}},
	"flow/collect":      {Layer: Engine, MayImport: []string{"flow", "wire/netflow", "wire/sflow"}, Unix: true},
	"record":            {Layer: Engine},
	"sensor":            {Layer: Engine, MayImport: []string{"point", "netdev"}},
	"sensor/ifcount":    {Layer: Engine, MayImport: []string{"sensor", "point", "netdev"}, Unix: true},
	"sensor/sysfs":      {Layer: Engine, MayImport: []string{"sensor", "point"}},
	"sensor/hwmon":      {Layer: Engine, MayImport: []string{"sensor/sysfs"}},
	"sensor/iio":        {Layer: Engine, MayImport: []string{"sensor/sysfs"}},
	"sensor/phidget":    {Layer: Engine, MayImport: []string{"sensor", "point"}, Driver: true},
	"sensor/mqtt":       {Layer: Engine, MayImport: []string{"sensor", "point"}, Heavy: true},
	"sensor/snmp":       {Layer: Engine, MayImport: []string{"sensor", "point"}},
	"sensor/sensortest": {Layer: Aid, MayImport: []string{"sensor"}},
	"sensor/csvout":     {Layer: Engine, MayImport: []string{"sensor", "sensor/ifcount"}},
	"sensor/parquetout": {Layer: Engine, MayImport: []string{"sensor", "sensor/ifcount"}, Heavy: true},
	"netdev":            {Layer: Engine, MayImport: []string{"point"}, Unix: true},
	"netdev/ovsport":    {Layer: Engine},
	"netdev/probing":    {Layer: Engine, MayImport: []string{"wire/probe"}, Unix: true},

	"tap":              {Layer: Pipe, MayImport: []string{"filter", "point"}},
	"tap/reconcile":    {Layer: Pipe, MayImport: []string{"tap"}},
	"tap/taptest":      {Layer: Aid, MayImport: []string{"internal/nettest", "tap"}},
	"tap/bpftap":       {Layer: Pipe, MayImport: []string{"tap", "filter/...", "filter"}, Unix: true, Driver: true},
	"tap/ovstap":       {Layer: Pipe, MayImport: []string{"tap", "filter/...", "filter", "wire/ovsdb"}, Unix: true, Driver: true},
	"tap/oftap":        {Layer: Pipe, MayImport: []string{"tap", "filter/...", "filter", "fabric"}, Driver: true},
	"fabric":           {Layer: Pipe, MayImport: []string{"filter", "point", "wire/of13"}},
	"fabric/session":   {Layer: Pipe, MayImport: []string{"fabric", "wire/of13"}},
	"fabric/reconcile": {Layer: Pipe, MayImport: []string{"fabric", "fabric/session", "wire/of13"}},
	"detect":           {Layer: Pipe, MayImport: []string{"wire/sflow", "filter", "filter/cbpf", "point"}},

	"store":                  {Layer: Pipe},
	"store/mem":              {Layer: Pipe, MayImport: []string{"store"}},
	"store/etcd":             {Layer: Pipe, MayImport: []string{"store"}},
	"store/storetest":        {Layer: Aid, MayImport: []string{"store"}},
	"auth":                   {Layer: Pipe, MayImport: []string{"store"}},
	"auth/openid":            {Layer: Pipe, MayImport: []string{"auth"}},
	"auth/keystone":          {Layer: Pipe, MayImport: []string{"auth"}},
	"auth/openid/openidtest": {Layer: Aid},
	"audit":                  {Layer: Pipe, MayImport: []string{"auth"}},
	"cert":                   {Layer: Pipe},
	"neutron":                {Layer: Pipe, MayImport: []string{"tap"}},
	"doctor":                 {Layer: Pipe, Unix: true},
	"agentapi":               {Layer: Pipe, MayImport: []string{"agentapi/agentpb", "tap", "point", "filter", "flow"}},
	"agentapi/agentpb":       {Layer: Pipe},
	"fleet":                  {Layer: Pipe, MayImport: []string{"store", "auth", "audit", "cert", "member", "agentapi", "agentapi/agentpb"}},
	"member":                 {Layer: Pipe, MayImport: []string{"cert", "agentapi/agentpb"}},

	"agent": {Layer: Place, Unix: true, MayImport: []string{
		"capture", "capture/...", "flow", "flow/...", "record", "sensor", "sensor/...",
		"netdev", "netdev/...", "filter", "filter/cbpf", "packet/detail", "pcap", "point", "tap", "tap/...", "agentapi", "wire/netflow", "wire/sflow", "wire/probe", "detect",
	}},
	"controller": {Layer: Place, MayImport: []string{
		"agentapi", "store", "auth", "audit", "filter", "filter/cbpf", "point", "pcap",
		"tap", "tap/reconcile", "tap/oftap", "fabric", "fabric/session", "fabric/reconcile", "detect", "wire/probe",
	}},

	"api/httpapi":  {Layer: Door, MayImport: doorImports},
	"api/classic":  {Layer: Door, MayImport: doorImports},
	"api/v1":       {Layer: Door, MayImport: doorImports},
	"api/taas":     {Layer: Door, MayImport: doorImports},
	"api/sshapi":   {Layer: Door, MayImport: doorImports},
	"web":          {Layer: Door, MayImport: []string{"api/httpapi"}},
	"api/doortest": {Layer: Aid, MayImport: doorImports},
	"client":       {Layer: Door, MayImport: []string{"pcap", "filter", "point", "tap", "cert"}},

	"cmd/opentapd": {Layer: Main, Unix: true, MayImport: []string{
		"agent", "agentapi", "controller", "api/...", "web", "store", "store/...", "auth", "audit", "filter", "point",
		"neutron", "internal/metrics", "client", "flow/export", "flow/collect", "wire/netflow", "cert", "doctor", "fleet", "member", "auth/openid", "auth/keystone", "sensor/mqtt", "sensor/snmp", "sensor/phidget",
	}},
	"cmd/opentapd-phidget": {Layer: Main, MayImport: []string{"sensor/phidget"}},
	"lab":                  {Layer: Aid, Unix: true},
	"cmd/opentap":          {Layer: Main, MayImport: []string{"report", "lab", "detect", "wire/sflow", "client", "cert", "tap", "filter", "filter/...", "pcap", "point", "capture/query", "capture/segment", "capture/index", "flow", "flow/..."}},

	"internal/metrics":  {Layer: Aid},
	"internal/nettest":  {Layer: Aid, MayImport: []string{"pcap"}, Unix: true},
	"internal/archtest": {Layer: Aid},
	"internal/await":    {Layer: Aid},
	"scripts/testsum":   {Layer: Aid},
	"packaging/man":     {Layer: Aid},
	"packaging/archive": {Layer: Aid},
}

var doorImports = []string{"report", "api/httpapi", "auth", "filter", "pcap", "point", "tap"}

// Law forbids what a room may reach, through any number of imports. Its reason is shown when it is broken.
type Law struct {
	From   func(name string, r Room) bool
	Reach  []string // import paths; "/..." for it and all below. Ours begin with the module's name
	Reason string
}

// Laws.
var Laws = []Law{
	{
		From:   func(_ string, r Room) bool { return r.Layer == Engine && !r.Heavy },
		Reach:  []string{"net/http", "google.golang.org/protobuf/...", "go.etcd.io/...", "google.golang.org/grpc/...", module + "api/...", module + "store", module + "store/...", module + "tap", module + "tap/..."},
		Reason: "engines run where packets pass: no server, no remote procedure call, no desired state in the hot path",
	},
	{
		From:   named("agent"),
		Reach:  []string{module + "store/etcd", module + "api/...", module + "fabric", module + "fabric/..."},
		Reason: "an agent obeys a desired set; it does not know who keeps it or who asked",
	},
	{
		From:   named("controller"),
		Reach:  []string{module + "capture/ring", module + "tap/bpftap", "github.com/cilium/ebpf/..."},
		Reason: "a controller touches no packet: it must run where there are no rights to",
	},
	{
		From:   named("cmd/opentap"),
		Reach:  []string{"go.etcd.io/etcd/...", "google.golang.org/grpc/...", "github.com/cilium/ebpf/..."},
		Reason: "the command line must start in a few milliseconds",
	},
	{
		From:   named("tap"),
		Reach:  []string{module + "tap/..."},
		Reason: "the model of taps knows no driver",
	},
	{
		From:   func(n string, r Room) bool { return r.Driver && n != "tap/bpftap" },
		Reach:  []string{module + "tap/bpftap"},
		Reason: "a driver knows no driver",
	},
	{
		From:   func(n string, r Room) bool { return r.Driver && n != "tap/ovstap" },
		Reach:  []string{module + "tap/ovstap"},
		Reason: "a driver knows no driver",
	},
	{
		From:   func(_ string, r Room) bool { return r.Layer != Main && r.Layer != Place },
		Reach:  []string{module + "agent", module + "controller"},
		Reason: "nobody imports the places but the commands and end-to-end tests",
	},
}

const module = "opentap/"

func named(room string) func(string, Room) bool {
	return func(n string, _ Room) bool { return n == room }
}

// ForbiddenNames are no nouns of the field: what such a room holds belongs elsewhere.
var ForbiddenNames = []string{"util", "utils", "common", "helpers", "helper", "types", "base", "misc", "manager", "lib", "shared"}
