package hwmon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Bounds of what is believed of a tree, which in a test or a container may be anything.
const (
	maxChips    = 1024
	maxChannels = 1024 // of a chip
)

// findChips finds the channels of class hwmon.
func findChips(ctx context.Context, root string) ([]channel, error) {
	dirs, err := numbered(filepath.Join(root, "class", "hwmon"), "hwmon")
	if err != nil {
		return nil, err
	}
	var found []channel
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		values := dir
		name, err := readWord(values, "name")
		if err != nil { // drivers of before Linux 3.13 have their files at the device
			values = filepath.Join(dir, "device")
			if name, err = readWord(values, "name"); err != nil {
				continue // unplugged while we looked, or not a chip
			}
		}
		chip := numberedName(seen, "hwmon/"+chipName(name, deviceID(dir)))
		found = append(found, channels(values, chip, name)...)
	}
	return found, nil
}

// findZones finds the zones of class thermal.
func findZones(ctx context.Context, root string) ([]channel, error) {
	dirs, err := numbered(filepath.Join(root, "class", "thermal"), "thermal_zone")
	if err != nil {
		return nil, err
	}
	var found []channel
	seen := make(map[string]int)
	for _, dir := range dirs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		typ, err := readWord(dir, "type")
		if err != nil {
			continue
		}
		found = append(found, channel{name: numberedName(seen, "thermal/"+typ), dir: dir, file: "temp", kind: &thermalKind})
	}
	return found, nil
}

// numbered lists the directories of dir named prefix and a number, in the order of the numbers. No dir is an empty list.
func numbered(dir, prefix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var nums []int
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name(), prefix); ok {
			if n, err := strconv.Atoi(s); err == nil && n >= 0 && strconv.Itoa(n) == s {
				nums = append(nums, n)
			}
		}
	}
	slices.Sort(nums)
	nums = nums[:min(len(nums), maxChips)]
	paths := make([]string, len(nums))
	for i, n := range nums {
		paths[i] = filepath.Join(dir, prefix+strconv.Itoa(n))
	}
	return paths, nil
}

// numberedName returns name, or name#2, name#3 … when it was given before.
func numberedName(seen map[string]int, name string) string {
	seen[name]++
	if n := seen[name]; n > 1 {
		return fmt.Sprintf("%s#%d", name, n)
	}
	return name
}

// address is a device name that says where on a bus the device sits: PCI domain:bus:device.function, I²C bus-address, USB.
var address = regexp.MustCompile(`^([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|\d+-[0-9a-f]{4}|\d+-\d+(\.\d+)*:\d+\.\d+)$`)

// deviceID returns what tells a chip's device from others of its driver: the nearest bus address up its path, else the
// device's name; "" for a chip without a device.
func deviceID(dir string) string {
	path, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if err != nil {
		return ""
	}
	parts := strings.Split(path, string(filepath.Separator))
	for _, part := range slices.Backward(parts) {
		if part == "devices" || part == "class" {
			break
		}
		if address.MatchString(part) {
			return part
		}
	}
	return word(parts[len(parts)-1])
}

// chipName joins a driver's name and its device's id, without saying anything twice: coretemp and coretemp.0 is coretemp.
func chipName(name, id string) string {
	switch {
	case id == "" || id == name || id == name+".0":
		return name
	case strings.HasPrefix(id, name+"."):
		return id
	}
	return name + "-" + id
}

// channels finds the values in a chip's directory.
func channels(dir, chip, driver string) []channel {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	files := make(map[string]bool, len(entries))
	for _, e := range entries {
		files[e.Name()] = true
	}
	var found []channel
	for _, e := range entries {
		k, id := channelOf(e.Name(), files)
		if k == nil {
			continue
		}
		c := channel{name: chip + "/" + id, dir: dir, file: e.Name(), kind: k}
		if files[id+"_fault"] {
			c.fault = id + "_fault"
		}
		if label, err := readWord(dir, id+"_label"); err == nil {
			c.alias = driver + " " + label
		}
		if found = append(found, c); len(found) == maxChannels {
			break
		}
	}
	return found
}

// channelOf returns the kind and name (temp1) of the channel whose value file holds; nil when it holds none, or when a
// better file of the same channel is there.
func channelOf(file string, files map[string]bool) (*kind, string) {
	for i := range kinds {
		k := &kinds[i]
		rest, ok := strings.CutPrefix(file, k.prefix)
		if !ok {
			continue
		}
		for better, suffix := range k.suffixes {
			num, ok := strings.CutSuffix(rest, suffix)
			if !ok || num == "" || len(num) > 9 || strings.Trim(num, "0123456789") != "" {
				continue
			}
			id := k.prefix + num
			if better > 0 && files[id+k.suffixes[0]] {
				return nil, ""
			}
			return k, id
		}
	}
	return nil, ""
}
