# A cache is mounted, and a program runs from it with the mount as its /nix/store.
{ pkgs }:
let
  common = import ./common.nix { inherit pkgs; };
in
pkgs.testers.runNixOSTest {
  name = "granary-mount";

  nodes.server = common.server;

  nodes.client = {
    imports = [ ../modules/mount.nix ];
    services.granary.mounts.main = {
      cache = common.url;
      publicKeys = [ common.publicKey ];
      # The cache is made later.
      autoStart = false;
    };
  };

  testScript = ''
    start_all()
    ${common.fill}
    client.wait_for_unit("network-online.target")
    client.succeed("systemctl start granary-mount-main.service")
    store = "/mnt/granary/main"

    with subtest("the mount is the whole machine's, and only to be read"):
        client.succeed(f"grep ' {store} fuse' /proc/self/mounts")
        client.succeed(f"runuser -u nobody -- ls {store}/$(basename ${pkgs.hello})/bin/hello")
        client.fail(f"touch {store}/new")

    with subtest("a program runs from it, with its libraries"):
        # What this machine's own store holds is out of sight.
        client.succeed(
            f"unshare --mount sh -c 'mount --bind {store} /nix/store"
            " && exec ${pkgs.hello}/bin/hello' | grep 'Hello, world!'"
        )

        client.succeed(f"cat {store}/$(basename ${pkgs.hello})/bin/hello > /dev/null")

    with subtest("it comes back after kill -9"):
        client.succeed("systemctl kill --signal=KILL granary-mount-main.service")
        client.wait_until_succeeds(f"test -x {store}/$(basename ${pkgs.hello})/bin/hello")

    with subtest("what was read is still there without the server"):
        server.shutdown()
        client.succeed(f"cat {store}/$(basename ${pkgs.hello})/bin/hello > /dev/null")

    with subtest("it goes when it is told to"):
        client.succeed("systemctl stop granary-mount-main.service")
        client.fail(f"grep ' {store} ' /proc/self/mounts")
  '';
}
