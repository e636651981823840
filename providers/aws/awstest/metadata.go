package awstest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// imdsToken is the token of the instance metadata service.
const imdsToken = "AQAEAtestTOKEN=="

// metadata answers for the metadata services: of EC2 below /latest, in version 2 only, of ECS below /v4.
func (s *Server) metadata(w http.ResponseWriter, h *http.Request) {
	s.Lock()
	inv := s.inv
	s.Unlock()
	service := "imds"
	if strings.HasPrefix(h.URL.Path, "/v4/") {
		service = "ecs-metadata"
	}
	s.Note(Request{Service: service, Operation: h.Method + " " + h.URL.Path})
	if service == "ecs-metadata" {
		taskMetadata(w, &inv)
		return
	}
	i := slices.IndexFunc(inv.Instances, func(i Instance) bool { return i.ID == inv.Self.Instance })
	switch {
	case inv.Self.Off:
		w.WriteHeader(http.StatusForbidden)
	case inv.Self.OutOfReach && h.Method == http.MethodPut:
		<-h.Context().Done()
	case i < 0:
		w.WriteHeader(http.StatusNotFound)
	case inv.Self.V1 && h.Method == http.MethodPut:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case h.Method == http.MethodPut && h.URL.Path == "/latest/api/token":
		ttl := h.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds")
		if ttl == "" || h.Header.Get("X-Forwarded-For") != "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", ttl)
		_, _ = io.WriteString(w, imdsToken)
	case h.Header.Get("X-Aws-Ec2-Metadata-Token") != imdsToken && !inv.Self.V1:
		w.WriteHeader(http.StatusUnauthorized)
	default:
		answer, known := instanceMetadata(&inv.Instances[i], strings.TrimPrefix(h.URL.Path, "/latest/"))
		if !known {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, answer)
	}
}

func instanceMetadata(i *Instance, path string) (string, bool) {
	switch strings.TrimSuffix(path, "/") {
	case "dynamic/instance-identity/document":
		doc, _ := json.Marshal(object{"version": "2017-09-30", "accountId": i.account(), "region": i.region(), "availabilityZone": i.Zone,
			"instanceId": i.ID, "privateIp": i.IP})
		return string(doc), true
	case "meta-data/placement/availability-zone-id":
		return i.ZoneID, i.ZoneID != ""
	case "meta-data/placement/availability-zone":
		return i.Zone, true
	case "meta-data/placement/region":
		return i.region(), true
	case "meta-data/instance-id":
		return i.ID, true
	case "meta-data/iam/security-credentials":
		return "tradewind", true
	case "meta-data/iam/security-credentials/tradewind":
		return fmt.Sprintf(`{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"ASIA%s","SecretAccessKey":"secret","Token":"token",`+
			`"LastUpdated":%q,"Expiration":%q}`, i.account(), time.Now().UTC().Format(time.RFC3339),
			time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339)), true
	}
	return "", false
}

func taskMetadata(w http.ResponseWriter, inv *Inventory) {
	cluster, id, _ := strings.Cut(inv.Self.Task, "/")
	for _, c := range inv.Clusters {
		for i := range c.Tasks {
			if c.Name == cluster && c.Tasks[i].ID == id {
				t := c.task(&c.Tasks[i], false)
				zone := ""
				for _, n := range inv.Subnets {
					if n.ID == c.Tasks[i].Subnet {
						zone = n.Zone
					}
				}
				_ = json.NewEncoder(w).Encode(object{"Cluster": c.Name, "TaskARN": t["taskArn"], "LaunchType": t["launchType"],
					"AvailabilityZone": zone, "Family": c.Tasks[i].Definition})
				return
			}
		}
	}
	w.WriteHeader(http.StatusNotFound)
}
