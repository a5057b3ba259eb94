# The outputs of the flake. What they are made of does without flakes: package.nix is for
# callPackage, the modules are for imports.
{ self, nixpkgs, ... }:
let
  inherit (nixpkgs) lib;
  forEachSystem =
    f:
    lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: f nixpkgs.legacyPackages.${system});
  packageFor = pkgs: pkgs.callPackage ./package.nix { };
in
{
  packages = forEachSystem (pkgs: rec {
    granary = packageFor pkgs;
    default = granary;
  });

  overlays.default = final: _previous: { granary = packageFor final; };

  nixosModules = rec {
    server = ./modules/server.nix;
    mount = ./modules/mount.nix;
    default.imports = [
      server
      mount
    ];
  };

  checks = forEachSystem (pkgs: {
    package = packageFor pkgs;
    server-client = pkgs.callPackage ./tests/server-client.nix { };
    mount = pkgs.callPackage ./tests/mount.nix { };
    overlay = pkgs.callPackage ./tests/overlay.nix { };
  });

  devShells = forEachSystem (pkgs: {
    default = pkgs.mkShell {
      inputsFrom = [ self.packages.${pkgs.stdenv.hostPlatform.system}.granary ];
      packages = [
        pkgs.cargo-deny
        pkgs.cargo-nextest
        pkgs.clippy
        pkgs.fuse3
        pkgs.rustfmt
      ];
    };
  });

  formatter = forEachSystem (pkgs: pkgs.nixfmt-tree);
}
