package sysfs

import (
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

// maxDevices bounds what is believed of a class, which in a test or a container may be anything.
const maxDevices = 1024

// Numbered lists the directories of dir named prefix and a number, in the order of the numbers. No dir is an empty list.
func Numbered(dir, prefix string) ([]string, error) {
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
	nums = nums[:min(len(nums), maxDevices)]
	paths := make([]string, len(nums))
	for i, n := range nums {
		paths[i] = filepath.Join(dir, prefix+strconv.Itoa(n))
	}
	return paths, nil
}

// Unique returns name, or name#2, name#3 … when it was given before.
func Unique(seen map[string]int, name string) string {
	seen[name]++
	if n := seen[name]; n > 1 {
		return fmt.Sprintf("%s#%d", name, n)
	}
	return name
}

// address is a device name that says where on a bus the device sits: PCI domain:bus:device.function, I²C bus-address, USB.
var address = regexp.MustCompile(`^([0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|\d+-[0-9a-f]{4}|\d+-\d+(\.\d+)*:\d+\.\d+)$`)

// DeviceID returns what tells a chip's device from others of its driver: the nearest bus address up its path, else the
// device's name; "" without one.
func DeviceID(device string) string {
	path, err := filepath.EvalSymlinks(device)
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
	return Word(parts[len(parts)-1])
}

// ChipName joins a driver's name and its device's id, without saying anything twice: coretemp and coretemp.0 is coretemp.
func ChipName(name, id string) string {
	switch {
	case id == "" || id == name || id == name+".0":
		return name
	case strings.HasPrefix(id, name+"."):
		return id
	}
	return name + "-" + id
}
