//! SCTP by policy, on real associations: by number, by name, denied, taken back.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use podgate_sandbox::{DENY_WAIT, Netns, PATIENCE, PodOptions};
use socket2::{Domain, Protocol, Socket, Type};

use super::has;
use crate::kit::{Node, policy};

const SCTP: i32 = 132;

fn socket(netns: &Netns, towards: SocketAddr) -> std::io::Result<Socket> {
    netns.run(|| Socket::new(Domain::for_address(towards), Type::STREAM, Some(Protocol::from(SCTP))))
}

fn kernel_has_it() -> bool {
    let made = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(SCTP)));
    has("sctp", made.map(drop).map_err(|e| e.to_string()))
}

/// Echoes whatever comes, until the test's process ends.
fn serve(netns: &Netns, at: SocketAddr) {
    let socket = socket(netns, at).expect("a socket");
    socket.bind(&at.into()).expect("bound");
    socket.listen(16).expect("listening");
    let listener = TcpListener::from(socket);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = [0; 1024];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// An association over which something was sent and came back.
fn talk(netns: &Netns, to: SocketAddr, patience: Duration) -> std::io::Result<TcpStream> {
    let socket = socket(netns, to)?;
    socket.connect_timeout(&to.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(patience))?;
    echo(&mut stream).map(|()| stream)
}

fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(b"sctp?")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"sctp?");
    Ok(())
}

#[test]
fn sctp_is_judged_by_its_ports_and_their_names() {
    if !kernel_has_it() {
        return;
    }
    let mut node = Node::new();
    node.write("node.yaml", &node.host.manifest());
    // A TCP port of the same name and number must not help.
    let options =
        PodOptions::new("shop/web").label("app", "web").port("diameter", 3868, "SCTP").port("tcp", 3869, "TCP");
    let web = node.pod(options);
    let client = node.pod(PodOptions::new("shop/client").label("app", "client"));
    let spec = |ports: &str| format!("{{podSelector: {{matchLabels: {{app: web}}}}, ingress: [{{ports: [{ports}]}}]}}");
    let open = "{protocol: SCTP, port: 7000}, {protocol: SCTP, port: diameter}, {protocol: TCP, port: 3869}";
    node.write("policy.yaml", &policy("web", "shop", &spec(open)));
    for address in web.addresses() {
        [7000, 7001, 3868, 3869].into_iter().for_each(|port| serve(web.netns(), SocketAddr::new(*address, port)));
    }
    node.start(&[]);
    let to = |address: &IpAddr, port| SocketAddr::new(*address, port);
    for address in web.addresses() {
        for port in [7000, 3868] {
            if let Err(error) = talk(client.netns(), to(address, port), PATIENCE) {
                panic!("{address} {port}: {error}\n{}", node.log());
            }
        }
        for port in [7001, 3869] {
            assert!(talk(client.netns(), to(address, port), DENY_WAIT).is_err(), "{address} {port}\n{}", node.log());
        }
    }
    assert!(node.rule_count("networkpolicy/shop/web/ingress/0") >= 4.0);
    let denied = "podgate_default_deny_total{namespace=\"shop\",policy=\"web\",direction=\"ingress\"}";
    assert!(node.metric(denied) >= 4.0, "{}", node.get("/metrics").1);
    // What was established under a permission ends with it.
    let mut streams: Vec<_> = web.addresses().iter().map(|a| talk(client.netns(), to(a, 7000), PATIENCE)).collect();
    node.apply("policy.yaml", &policy("web", "shop", &spec("{protocol: SCTP, port: diameter}")));
    for stream in &mut streams {
        let stream = stream.as_mut().expect("permitted");
        stream.set_read_timeout(Some(DENY_WAIT)).expect("set");
        assert!(echo(stream).is_err(), "{}", node.log());
    }
}
