// Package agentpb is the generated form of agent.proto and fleet.proto.
//
// Runs in: agent | controller
package agentpb

//go:generate sh -c "cd ../.. && protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=module=opentap --go-grpc_out=. --go-grpc_opt=module=opentap agentapi/agentpb/agent.proto agentapi/agentpb/fleet.proto"
