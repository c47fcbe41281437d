package tap

import "time"

// PortWish asks for a port, or says what of one shall be otherwise; nil = as it is, or the default.
type PortWish struct {
	ID          *string        `json:"id,omitempty"` // of a new one; only an administrator chooses it
	Name        *string        `json:"name,omitempty"`
	Description *string        `json:"description,omitempty"`
	Project     *string        `json:"project_id,omitempty"`
	Network     *string        `json:"network_id,omitempty"`
	MAC         *string        `json:"mac_address,omitempty"`
	Node        *string        `json:"node,omitempty"`   // with Device or Name: the device that it is, by its name there
	Device      *string        `json:"device,omitempty"` // "" = Name
	Extra       map[string]any `json:"-"`                // further attributes of Neutron's, echoed
}

// Network is what ports of a Neutron belong to. It means nothing here, but that clients ask for it.
type Network struct {
	ID          string    `json:"id"`
	Project     string    `json:"project_id"`
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	MTU         int       `json:"mtu,omitempty"` // octets
	Created     time.Time `json:"created_at"`
}
