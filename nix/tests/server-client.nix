# A client pushes to a server, and pulls from it into an empty store.
{ pkgs }:
let
  common = import ./common.nix { inherit pkgs; };
in
pkgs.testers.runNixOSTest {
  name = "granary-server-client";

  nodes.server = common.server;

  nodes.client =
    { config, ... }:
    {
      imports = [ ../modules/package.nix ];
      environment.systemPackages = [ config.services.granary.package ];
      nix.settings = {
        experimental-features = [ "nix-command" ];
        trusted-public-keys = [ common.publicKey ];
      };
      virtualisation.additionalPaths = [ pkgs.figlet ];
    };

  testScript = ''
    start_all()
    ${common.fill}

    with subtest("a push from another machine"):
        token = server.succeed(
            "cd / && runuser -u granary -- granary token create"
            " --data /var/lib/granary --sub client --push main --pull main --validity 1h"
        ).strip()
        client.wait_for_unit("multi-user.target")
        client.succeed(
            f"(umask 077; echo {token} > /root/token)",
            "granary login team http://server:8080 --token-file /root/token",
            "granary push main ${pkgs.figlet}",
        )

    with subtest("a pull, signatures required"):
        client.succeed(
            "nix copy --from ${common.url} --to /tmp/fresh ${pkgs.figlet} ${pkgs.hello}",
            "nix store verify --store /tmp/fresh --recursive ${pkgs.figlet} ${pkgs.hello}",
            "test -x /tmp/fresh${pkgs.hello}/bin/hello",
        )

    with subtest("what was pushed survives kill -9"):
        server.succeed("systemctl kill --signal=KILL granary.service")
        server.wait_until_succeeds("systemctl is-active granary.service")
        server.wait_for_open_port(8080)
        client.succeed(
            "nix copy --refresh --from ${common.url} --to /tmp/again ${pkgs.figlet}",
        )

    with subtest("nothing of the data is anybody else's to read"):
        server.fail("runuser -u nobody -- ls /var/lib/granary")
  '';
}
