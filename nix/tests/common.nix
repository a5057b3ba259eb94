# What the tests share: a server with a cache called `main`, and what fills it.
{ pkgs }:
let
  key = import ./key.nix;
  keyFile = pkgs.writeText "granary-test-key" key.secret;
in
rec {
  publicKey = key.public;
  url = "http://server:8080/main";

  server = {
    imports = [ ../modules/server.nix ];
    services.granary = {
      enable = true;
      listenAddress = "0.0.0.0";
      openFirewall = true;
    };
    virtualisation.additionalPaths = [
      pkgs.hello
      pkgs.pkgsStatic.busybox
    ];
  };

  # Python: makes the cache and pushes hello and busybox, each with everything it needs.
  fill = ''
    server.wait_for_unit("granary.service")
    server.wait_for_open_port(8080)
    server.succeed(
        "granary login local http://127.0.0.1:8080 --token-file /var/lib/granary/root-token",
        "granary cache create main --public --no-upstream --signing-key ${keyFile}",
        "granary push main ${pkgs.hello} ${pkgs.pkgsStatic.busybox}",
    )
  '';
}
