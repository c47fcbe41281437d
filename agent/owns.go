package agent

// Owns reports whether an entry of the directory of captures belongs to a capture or a recorder of this host.
func (a *Agent) Owns(name string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return name == recordingsDir || name == flowsDir || a.jobs[name] != nil
}
