//! Pods as network namespaces, with servers, clients and packets: what the demo shows and the tests stand on.
