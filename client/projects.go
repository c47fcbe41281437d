package client

import (
	"context"

	"opentap/want"
)

// Projects lists the projects that the caller may see.
func (c *Client) Projects(ctx context.Context) ([]want.Project, error) {
	return listOf[want.Project](ctx, c, "/v1/projects", "projects", nil)
}

// Project shows a project.
func (c *Client) Project(ctx context.Context, name string) (p want.Project, err error) {
	_, err = c.do(ctx, "GET", "/v1/projects/"+escape(name), nil, &p)
	return p, err
}

// SetProject declares a project.
func (c *Client) SetProject(ctx context.Context, name string, r want.ProjectRequest) (p want.Project, err error) {
	_, err = c.do(ctx, "PUT", "/v1/projects/"+escape(name), r, &p)
	return p, err
}

// DeleteProject forgets a project that has nothing any more.
func (c *Client) DeleteProject(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/projects/"+escape(name), nil, nil)
	return err
}
