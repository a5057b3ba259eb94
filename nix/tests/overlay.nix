# A store on top of a mounted cache: what the cache has is valid, and what is built lies on top.
{ pkgs }:
let
  common = import ./common.nix { inherit pkgs; };
  expression = pkgs.writeText "on-top.nix" ''
    { busybox }:
    derivation {
      name = "on-top";
      system = "${pkgs.stdenv.hostPlatform.system}";
      # storePath: it has to be in the store that is built in, and nobody copies it there.
      builder = "''${builtins.storePath busybox}/bin/sh";
      args = [ "-c" "echo from above > $out" ];
    }
  '';
in
pkgs.testers.runNixOSTest {
  name = "granary-overlay";

  nodes.server = common.server;

  nodes.client = {
    imports = [ ../modules/mount.nix ];
    services.granary.mounts.main = {
      cache = common.url;
      publicKeys = [ common.publicKey ];
      autoStart = false;
      overlayStore.enable = true;
    };
    nix.settings.substituters = pkgs.lib.mkForce [ ];
  };

  testScript = ''
    start_all()
    ${common.fill}
    client.wait_for_unit("network-online.target")
    client.succeed("systemctl start granary-mount-main.service")
    directory = "/var/lib/granary-overlay/main"
    client.wait_until_succeeds(f"grep '^overlay {directory}/root/nix/store ' /proc/self/mounts")
    store = client.succeed("cat /etc/granary/stores/main").strip()

    with subtest("what the cache has is valid, without having been copied"):
        client.succeed(f"nix path-info --store '{store}' --recursive ${pkgs.hello}")
        assert client.succeed(f"ls {directory}/upper").strip() == ""

    with subtest("a build on top"):
        built = client.succeed(
            f"nix build --store '{store}' --no-link --print-out-paths"
            " --file ${expression} --argstr busybox ${pkgs.pkgsStatic.busybox}"
        ).strip()
        client.succeed(f"grep 'from above' {directory}/root{built}")

    with subtest("only what was built is on top"):
        names = client.succeed(f"ls {directory}/upper").split()
        assert len([name for name in names if not name.endswith(".drv")]) == 1, names
        client.succeed(f"test -e {directory}/upper/$(basename {built})")

    with subtest("it comes back with the mount"):
        client.succeed("systemctl restart granary-mount-main.service")
        client.wait_until_succeeds(f"grep '^overlay {directory}/root/nix/store ' /proc/self/mounts")
        client.succeed(f"nix store verify --store '{store}' --no-trust {built}")
  '';
}
